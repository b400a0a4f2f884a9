/* The bridge: the one program of ours inside agent and server containers. bridge.c says what it does and why. */
#ifndef MLLD_BRIDGE_H
#define MLLD_BRIDGE_H

#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    EXIT_USAGE = 64,  /* bad arguments, or a malformed environment block */
    EXIT_SETUP = 71,  /* a listener or a table could not be made */
    EXIT_LAPSED = 75, /* --run: the owner left before the program was done */
    EXIT_CANARY = 97, /* the fence is not what it should be: nothing of the user's was started */
};
enum {
    MAX_FORWARDS = 8,
    MAX_SECRETS = 32,
    MAX_CONNECTIONS = 256,      /* two descriptors each: stays below the plan's nofile limit of 1,024 */
    MAX_PROCESSES = 64,
    MAX_ENVIRONMENT = 1 << 20,  /* bytes of the environment block */
    MAX_POLL = 2 * MAX_CONNECTIONS + MAX_FORWARDS + MAX_PROCESSES + 8,
};
#define NEVER INT64_MAX

struct forward {
    uint16_t port;
    const char *path; /* of the Unix socket */
    int listener;
    int index;        /* in the poll set */
};

struct options {
    bool lease, canary, run;
    const char *env_file;
    struct secret { const char *assignment, *path; } secrets[MAX_SECRETS]; /* "NAME=", and the file with its value */
    int n_secrets;
    const char *hold, *input;
    const char *serve;
    int max;
    char **argv; /* of the program to serve or to run; NULL if there is none */
    struct forward forwards[MAX_FORWARDS];
    int n_forwards;
};

/* What the loop waits for. It is built anew in every round, so there is no stale entry to trip over. */
struct pollset {
    struct pollfd fds[MAX_POLL];
    int n;
    int64_t deadline; /* ms on the monotonic clock */
};

/* bridge.c */
int64_t now_ms(void);
int watch(struct pollset *set, int fd, short events);              /* returns the index of the entry, or -1 */
short seen(const struct pollset *set, int index);                  /* what poll() found there */
void wake_at(struct pollset *set, int64_t when);
void emit(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *json(const char *text);                                /* escaped; the buffer lives until the next-but-three call */
int dial(const char *path);                                        /* a connected, non-blocking Unix socket, or -1 */
const char *errno_name(int error);
bool still_wanted(const struct options *options, int ms); /* waits so long; false if the owner left meanwhile */

/* canary.c */
bool canary(const struct options *options);

/* forward.c */
bool forward_open(struct options *options);
void forward_watch(struct options *options, struct pollset *set);
void forward_dispatch(struct options *options, const struct pollset *set);

/* serve.c */
void serve_adopt(int fd);       /* a connection that the canary made becomes the first spare */
void serve_watch(const struct options *options, struct pollset *set);
void serve_dispatch(const struct options *options, const struct pollset *set, char **environment);
int run_program(const struct options *options, char **environment); /* starts ARGV once, on our own stdout; 0 if it cannot */
bool reap(int *run_code);       /* collects the dead; true if the program of --run was among them */
void end_processes(void);       /* TERM, a moment, KILL */

/* end.c */
int end_marked(const char *entry); /* the exit code */

/* put.c */
int put(char *path); /* the exit code */

/* tree.c */
int unpack(const char *directory, const char *shown); /* the exit code */
int pack(const char *directory, const char *most);    /* the exit code */

/* talk.c */
int talk(const char *path); /* the exit code */

#endif
