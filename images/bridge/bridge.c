/* The bridge between the programs in a container without a network and the sidecar's Unix sockets.
 *
 *   bridge [--lease | --hold SOCKET] [--canary] [--env-file F] [--env-from NAME=FILE]...
 *          [--forward 127.0.0.1:PORT=SOCKET]... [--serve SOCKET [--max N] -- ARGV... | --run [--input TEXT] -- ARGV...]
 *   bridge --talk SOCKET | --put PATH | --end NAME=VALUE | --unpack DIR SHOWN | --pack DIR MOST
 *
 * It has to work in any OCI image (distroless, Alpine, FROM scratch), so it is static, uses no name service and reads
 * nothing but /proc and its own arguments. One thread, one poll() loop; the poll set is rebuilt in each round from the
 * state, which is a few entries long in practice and removes the class of bugs that stale registrations are.
 *
 *   --lease     stdin first carries the environment block (NAME=VALUE\0 ... \0), for ARGV only, so that secrets are in no
 *               container configuration, no argv and no /proc/<pid>/environ but ARGV's own. Then it is the lease: at its
 *               end of file the owner is gone, children are ended, and we exit 0.
 *   --hold      the same lease as a connection (compose, where nobody holds stdin): its end is the owner's end.
 *   --env-from  NAME of the environment block is the content of FILE (compose's secrets are files).
 *   --canary    proves the fence from this very seat before anything of the user's starts (canary.c). Else exit 97.
 *   --forward   loopback TCP to a Unix socket (forward.c).
 *   --serve     ARGV's stdin and stdout ARE the socket: no byte is copied by us (serve.c).
 *   --run       ARGV once, on our own stdout, and its exit code is ours (compose, where nobody can exec). TEXT is its stdin.
 *
 *   --talk      stdin and stdout become a connection to SOCKET (talk.c).
 *   --put       stdin becomes the file PATH (put.c).
 *   --unpack    stdin becomes files below DIR, --pack the other way; the names in SHOWN are there as links (tree.c).
 *   --end       ends the processes here that have NAME=VALUE in their environment (end.c).
 *
 * stdout carries JSON lines for the runner, and nothing else. With --run it is ARGV's, and there is no runner.
 *
 * We run best as PID 1: then nobody in the container can kill us, and the end of us is the end of everything in it.
 * We are not dumpable: programs of the same user could otherwise open /proc/<us>/fd/1 and forge events, or take the
 * environment block out of our memory.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HOLD_FOR = 15000, HOLD_EVERY = 5 }; /* ms */

extern char **environ;

static bool quiet;
static int signals_fd = -1;

int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int watch(struct pollset *set, int fd, short events) {
    if (fd < 0 || set->n == MAX_POLL) return -1;
    set->fds[set->n] = (struct pollfd){.fd = fd, .events = events};
    return set->n++;
}

short seen(const struct pollset *set, int index) {
    return index < 0 || index >= set->n ? 0 : set->fds[index].revents;
}

void wake_at(struct pollset *set, int64_t when) {
    if (when < set->deadline) set->deadline = when;
}

/* One JSON line. A reader that does not read must not stop the traffic: what does not fit the pipe is dropped whole,
 * never cut (a write of at most PIPE_BUF bytes to a writable pipe is atomic). */
void emit(const char *format, ...) {
    char line[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (quiet || n < 0 || n >= (int)sizeof line - 1) return;
    line[n++] = '\n';
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) == 1 && (out.revents & POLLOUT)) {
        while (write(STDOUT_FILENO, line, (size_t)n) < 0 && errno == EINTR) {}
    }
}

const char *json(const char *text) {
    static char buffers[4][512];
    static int turn;
    char *out = buffers[turn = (turn + 1) % 4], *end = out + sizeof buffers[0] - 8, *p = out;
    for (; *text && p < end; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') *p++ = '\\', *p++ = (char)c;
        else if (c < 0x20 || c >= 0x7f) p += sprintf(p, "\\u%04x", c);
        else *p++ = (char)c;
    }
    *p = 0;
    return out;
}

const char *errno_name(int error) {
    switch (error) {
        case 0: return "none";
        case EACCES: return "EACCES";
        case EADDRINUSE: return "EADDRINUSE";
        case EAFNOSUPPORT: return "EAFNOSUPPORT";
        case EAGAIN: return "EAGAIN";
        case ECONNREFUSED: return "ECONNREFUSED";
        case EHOSTUNREACH: return "EHOSTUNREACH";
        case EINPROGRESS: return "EINPROGRESS";
        case ENETUNREACH: return "ENETUNREACH";
        case EADDRNOTAVAIL: return "EADDRNOTAVAIL";
        case ENOENT: return "ENOENT";
        case ENOEXEC: return "ENOEXEC";
        case ENOMEM: return "ENOMEM";
        case EPERM: return "EPERM";
        default: return strerror(error);
    }
}

int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return errno = ENAMETOOLONG, -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int error = errno;
    close(fd);
    return errno = error, -1;
}

static _Noreturn void usage(const char *problem) {
    dprintf(STDERR_FILENO,
            "bridge: %s\nusage: bridge [--lease | --hold SOCKET] [--canary] [--env-file F] [--env-from NAME=FILE]...\n"
            "              [--forward 127.0.0.1:PORT=SOCKET]...\n"
            "              [--serve SOCKET [--max N] -- ARGV... | --run [--input TEXT] -- ARGV...]\n"
            "       bridge --talk SOCKET | --put PATH | --end NAME=VALUE\n       bridge --unpack DIR SHOWN | --pack DIR MOST\n", problem);
    exit(EXIT_USAGE);
}

static void add_forward(struct options *o, char *spec) {
    static const char host[] = "127.0.0.1:"; /* never another address: the listener is for this container alone */
    char *end;
    if (o->n_forwards == MAX_FORWARDS) usage("too many --forward");
    if (strncmp(spec, host, sizeof host - 1) != 0) usage("--forward wants 127.0.0.1:PORT=SOCKET");
    long port = strtol(spec + sizeof host - 1, &end, 10);
    if (port < 1 || port > 65535 || *end != '=' || !end[1]) usage("--forward wants 127.0.0.1:PORT=SOCKET");
    o->forwards[o->n_forwards++] = (struct forward){.port = (uint16_t)port, .path = end + 1, .listener = -1, .index = -1};
}

static void add_secret(struct options *o, const char *spec) {
    const char *sign = strchr(spec, '=');
    char *name;
    if (o->n_secrets == MAX_SECRETS) usage("too many --env-from");
    if (!sign || sign == spec || !sign[1]) usage("--env-from wants NAME=FILE");
    if (!(name = strndup(spec, (size_t)(sign - spec) + 1))) exit(EXIT_SETUP);
    o->secrets[o->n_secrets++] = (struct secret){.assignment = name, .path = sign + 1};
}

static struct options parse(int argc, char **argv) {
    struct options o = {.max = 1};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--lease") == 0) { o.lease = true; continue; }
        if (strcmp(name, "--canary") == 0) { o.canary = true; continue; }
        if (strcmp(name, "--run") == 0) { o.run = true; continue; }
        if (strcmp(name, "--") == 0) {
            if (!argv[i + 1]) usage("nothing after --");
            o.argv = argv + i + 1;
            break;
        }
        if (i + 1 == argc) usage("an unknown option, or one without its value");
        char *value = argv[++i], *end;
        if (strcmp(name, "--env-file") == 0) o.env_file = value;
        else if (strcmp(name, "--env-from") == 0) add_secret(&o, value);
        else if (strcmp(name, "--hold") == 0) o.hold = value;
        else if (strcmp(name, "--input") == 0) o.input = value;
        else if (strcmp(name, "--forward") == 0) add_forward(&o, value);
        else if (strcmp(name, "--serve") == 0) o.serve = value;
        else if (strcmp(name, "--max") == 0) {
            long max = strtol(value, &end, 10);
            if (*end || max < 1 || max > MAX_PROCESSES) usage("--max wants a number from 1 to 64");
            o.max = (int)max;
        } else usage("unknown option");
    }
    if (o.input && !o.run) usage("--input is for --run");
    if (o.serve && o.run) usage("--serve and --run exclude each other");
    if ((o.serve || o.run) != (o.argv != NULL)) usage("--serve and --run want -- ARGV, and only they do");
    if (o.lease && (o.env_file || o.n_secrets)) usage("--lease brings the environment block: --env-* are for the case without it");
    if (o.lease && o.hold) usage("--lease and --hold exclude each other");
    return o;
}

/* The environment block as it comes in, until its empty entry. */
static struct {
    char *bytes;
    size_t length, entry; /* `entry`: where the current entry begins */
    bool complete;
} block;

/* Takes bytes of the block; what follows its end is ignored (an owner may write heartbeats). */
static void block_take(const char *bytes, size_t n) {
    if (!block.bytes && !(block.bytes = malloc(MAX_ENVIRONMENT))) exit(EXIT_SETUP);
    for (size_t i = 0; i < n && !block.complete; i++) {
        if (block.length == MAX_ENVIRONMENT) usage("the environment block is larger than 1 MiB");
        block.bytes[block.length++] = bytes[i];
        if (bytes[i]) continue;
        const char *entry = block.bytes + block.entry;
        if (!*entry) block.complete = true;
        else if (*entry == '=' || !strchr(entry, '=')) usage("an entry of the environment block is not NAME=VALUE");
        block.entry = block.length;
    }
}

static void block_read_file(const char *path) {
    char chunk[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) usage("--env-file cannot be read");
    for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) > 0;) block_take(chunk, (size_t)n);
    close(fd);
    if (!block.complete) usage("--env-file does not end with an empty entry");
}

/* The block of a run without a lease: that of --env-file, and an entry for each --env-from. */
static void block_read_files(const struct options *o) {
    if (o->env_file) {
        block_read_file(o->env_file);
        block.length--; /* its empty entry is written again below */
        block.entry = block.length;
        block.complete = false;
    }
    for (int i = 0; i < o->n_secrets; i++) {
        char value[64 * 1024];
        int fd = open(o->secrets[i].path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, value, sizeof value);
        if (n < 0 || n == (ssize_t)sizeof value || memchr(value, 0, (size_t)n)) usage("a file of --env-from cannot be read as a value");
        close(fd);
        while (n > 0 && (value[n - 1] == '\n' || value[n - 1] == '\r')) n--; /* editors end files with a newline */
        block_take(o->secrets[i].assignment, strlen(o->secrets[i].assignment));
        block_take(value, (size_t)n);
        block_take("", 1);
    }
    block_take("", 1);
}

static bool same_name(const char *a, const char *b) {
    size_t n = strcspn(a, "=") + 1;
    return strncmp(a, b, n) == 0;
}

/* Our own environment (the container's configuration), overridden by the block. */
static char **merged_environment(void) {
    size_t n = 0, extra = 0;
    while (environ[n]) n++;
    for (size_t i = 0; i < block.length; i++) extra += !block.bytes[i];
    char **merged = calloc(n + extra + 1, sizeof *merged), **end = merged;
    if (!merged) exit(EXIT_SETUP);
    for (size_t i = 0; i < n; i++) *end++ = environ[i];
    for (char *entry = block.bytes; entry && *entry; entry += strlen(entry) + 1) {
        char **at = merged;
        while (at < end && !same_name(entry, *at)) at++;
        *at = entry;
        if (at == end) end++;
    }
    return merged;
}

static _Noreturn void finish(const struct options *options, const char *reason) {
    emit("{\"event\":\"lapsed\",\"reason\":\"%s\"}", reason);
    end_processes();
    exit(options->run ? EXIT_LAPSED : 0); /* a program that was cut short has not succeeded */
}

static void read_lease(const struct options *options) {
    char chunk[4096];
    ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
    if (n > 0) block_take(chunk, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) finish(options, "lease");
}

static int open_signals(void) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Before the loop runs, the canary may have to wait for the sidecar: an owner who leaves meanwhile must not be outlived. */
bool still_wanted(const struct options *options, int ms) {
    struct pollfd fds[] = {{.fd = signals_fd, .events = POLLIN}, {.fd = options->lease ? STDIN_FILENO : -1}};
    if (poll(fds, 2, ms) <= 0) return true;
    return !(fds[0].revents & POLLIN) && !(fds[1].revents & (POLLHUP | POLLERR));
}

/* The connection of --hold; the owner of its other end starts at the same time as we do. */
static int hold(const struct options *options) {
    int fd;
    for (int64_t until = now_ms() + HOLD_FOR; (fd = dial(options->hold)) < 0;) {
        if (now_ms() > until) usage("nobody listens at the socket of --hold");
        if (!still_wanted(options, HOLD_EVERY)) finish(options, "signal");
    }
    return fd;
}

/* True once a child may have ended. */
static bool read_signals(const struct options *options) {
    struct signalfd_siginfo info;
    bool child = false;
    while (read(signals_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD) child = true;
        else finish(options, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    }
    return child;
}

int main(int argc, char **argv) {
    prctl(PR_SET_DUMPABLE, 0);
    if (argc == 3 && strcmp(argv[1], "--talk") == 0) return talk(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--put") == 0) return put(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--end") == 0) return end_marked(argv[2]);
    if (argc == 4 && strcmp(argv[1], "--unpack") == 0) return unpack(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "--pack") == 0) return pack(argv[2], argv[3]);
    struct options options = parse(argc, argv);
    quiet = options.run;
    if ((signals_fd = open_signals()) < 0) return EXIT_SETUP;
    if (options.canary && !canary(&options)) return EXIT_CANARY;
    if (!forward_open(&options)) return EXIT_SETUP;
    if (!options.lease) block_read_files(&options);
    int held = options.hold ? hold(&options) : -1;

    static struct pollset set;
    char **environment = NULL;
    for (;;) {
        if (block.complete && !environment) {
            environment = merged_environment();
            emit("{\"event\":\"ready\",\"forwards\":%d,\"serves\":%s}", options.n_forwards, options.serve ? "true" : "false");
            if (options.run && !run_program(&options, environment)) return EXIT_SETUP;
        }
        set.n = 0;
        set.deadline = NEVER;
        int lease_index = options.lease ? watch(&set, STDIN_FILENO, POLLIN) : -1;
        int held_index = watch(&set, held, POLLIN);
        int signal_index = watch(&set, signals_fd, POLLIN);
        forward_watch(&options, &set);
        if (options.serve && environment) serve_watch(&options, &set);

        int64_t wait = set.deadline == NEVER ? -1 : set.deadline - now_ms();
        if (set.deadline != NEVER && wait < 0) wait = 0;
        if (poll(set.fds, (nfds_t)set.n, wait > 60000 ? 60000 : (int)wait) < 0) {
            if (errno != EINTR) return EXIT_SETUP;
            continue;
        }
        int code;
        if (seen(&set, signal_index) && read_signals(&options) && reap(&code)) {
            end_processes();
            return code;
        }
        if (seen(&set, held_index) && recv(held, &(char){0}, 1, MSG_DONTWAIT) == 0) finish(&options, "hold");
        if (seen(&set, lease_index)) read_lease(&options);
        forward_dispatch(&options, &set);
        if (options.serve && environment) serve_dispatch(&options, &set, environment);
    }
}
