/* ARGV over a socket: keeps one spare connection to the sidecar; its first byte starts a process that owns the socket.
 *
 * The sidecar asks for a process by writing to a spare connection, and ends one by closing its connection. Nothing is
 * relayed: the socket is the program's stdin and stdout. A spare costs one descriptor and no process, so a server that
 * nobody calls is never started.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    DIAL_FIRST = 2,     /* ms between attempts to connect: short at first, since starting up is a race that we want to win */
    DIAL_SLOWEST = 100,
    TERM_AFTER = 1000,  /* ms that a program has to notice the end of its stdin */
    KILL_AFTER = 1500,  /* ms more, after SIGTERM */
    GRACE = 300,        /* ms between TERM and KILL when we end ourselves: the owner may be waiting */
};

extern char **environ;

struct process {
    pid_t pid;  /* 0: a free slot; also the id of its process group */
    int socket; /* our copy: shut down at the end, also when grandchildren still hold theirs. -1 for --run */
    int status; /* the read end of a pipe that carries errno if exec fails, and closes if it succeeds */
    int index;
    int64_t next_signal_at;
    bool termed, is_run;
};

static struct process processes[MAX_PROCESSES];
static int n_processes;
static int spare = -1, spare_index = -1;
static int64_t dial_at, dial_delay = DIAL_FIRST;

/* The stdin of --run: a file in memory, so that there is nothing to pump; without --input, nothing. */
static int input_of(const struct options *options) {
    int fd = options->input ? memfd_create("input", MFD_CLOEXEC) : open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || !options->input) return fd;
    size_t length = strlen(options->input);
    return write(fd, options->input, length) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0 ? fd : -1;
}

static _Noreturn void become(const struct options *options, char **environment, int socket, int status, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* outside of a container, too, the program must not outlive us */
    if (getppid() != parent) _exit(0); /* we died before that took hold */
    int in = socket >= 0 ? socket : input_of(options);
    if (in < 0 || dup2(in, STDIN_FILENO) < 0) _exit(126);
    if (socket >= 0) dup2(socket, STDOUT_FILENO);
    environ = environment; /* execvp looks for ARGV[0] in this PATH */
    execvp(options->argv[0], options->argv);
    int error = errno;
    dprintf(STDERR_FILENO, "bridge: cannot start %s: %s\n", options->argv[0], strerror(error));
    if (write(status, &error, sizeof error) < 0) _exit(126);
    _exit(127);
}

static bool start(const struct options *options, char **environment, int socket) {
    struct process *p = processes;
    int status[2];
    while (p < processes + MAX_PROCESSES && p->pid) p++;
    if (p == processes + MAX_PROCESSES || pipe2(status, O_CLOEXEC | O_NONBLOCK) < 0) return false;
    if (socket >= 0) fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) & ~O_NONBLOCK); /* programs expect a blocking stdin */
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) become(options, environment, socket, status[1], parent);
    close(status[1]);
    if (pid < 0) {
        close(status[0]);
        return false;
    }
    setpgid(pid, pid); /* on both sides of the fork: whoever is first */
    *p = (struct process){.pid = pid, .socket = socket, .status = status[0], .index = -1,
                          .next_signal_at = NEVER, .is_run = socket < 0};
    n_processes++;
    emit("{\"event\":\"spawn\",\"pid\":%d,\"running\":%d}", (int)pid, n_processes);
    return true;
}

int run_program(const struct options *options, char **environment) {
    if (start(options, environment, -1)) return 1;
    dprintf(STDERR_FILENO, "bridge: cannot start %s: %s\n", options->argv[0], strerror(errno));
    return 0;
}

void serve_adopt(int fd) { spare = fd; }

static void redial_later(void) {
    if (spare >= 0) close(spare);
    spare = -1;
    dial_at = now_ms() + dial_delay;
    dial_delay = dial_delay * 2 > DIAL_SLOWEST ? DIAL_SLOWEST : dial_delay * 2;
}

static void dial_spare(const struct options *options) {
    if (spare >= 0 || n_processes >= options->max || now_ms() < dial_at) return;
    spare = dial(options->serve);
    if (spare < 0) redial_later();
}

static void use_spare(const struct options *options, char **environment) {
    char byte;
    ssize_t n = recv(spare, &byte, 1, MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return redial_later(); /* the sidecar closed it unused */
    if (!start(options, environment, spare)) {
        emit("{\"event\":\"exit\",\"pid\":0,\"code\":126,\"error\":\"fork: %s\"}", errno_name(errno));
        dial_delay = DIAL_SLOWEST;
        return redial_later();
    }
    spare = -1;
    dial_delay = DIAL_FIRST;
}

void serve_watch(const struct options *options, struct pollset *set) {
    dial_spare(options);
    spare_index = watch(set, spare, POLLIN);
    if (spare < 0 && n_processes < options->max) wake_at(set, dial_at);
    for (struct process *p = processes; p < processes + MAX_PROCESSES; p++) {
        p->index = -1;
        if (!p->pid) continue;
        if (p->next_signal_at == NEVER) p->index = watch(set, p->socket, 0); /* for POLLHUP alone */
        else wake_at(set, p->next_signal_at);
    }
}

/* The sidecar closed the connection of a process: first its stdin ends (that is what it just saw), then TERM, then KILL. */
static void press(struct process *p) {
    int64_t now = now_ms();
    if (now < p->next_signal_at) return;
    kill(-p->pid, p->termed ? SIGKILL : SIGTERM);
    p->next_signal_at = now + KILL_AFTER;
    p->termed = true;
}

void serve_dispatch(const struct options *options, const struct pollset *set, char **environment) {
    for (struct process *p = processes; p < processes + MAX_PROCESSES; p++) {
        if (!p->pid) continue;
        if (seen(set, p->index) & (POLLHUP | POLLERR)) p->next_signal_at = now_ms() + TERM_AFTER;
        if (p->next_signal_at != NEVER) press(p);
    }
    if (spare >= 0 && seen(set, spare_index)) use_spare(options, environment);
}

/* Ends a connection in order: closing it over unread input would show the sidecar a reset instead of an end. */
static void hang_up(int socket) {
    char discarded[4096];
    shutdown(socket, SHUT_RDWR);
    while (recv(socket, discarded, sizeof discarded, MSG_DONTWAIT) > 0) {}
    close(socket);
}

static void report(const struct process *p, const siginfo_t *info) {
    int error = 0;
    bool failed = read(p->status, &error, sizeof error) == (ssize_t)sizeof error;
    if (failed) emit("{\"event\":\"exit\",\"pid\":%d,\"code\":127,\"error\":\"exec: %s\"}", (int)p->pid, errno_name(error));
    else if (info->si_code == CLD_EXITED) emit("{\"event\":\"exit\",\"pid\":%d,\"code\":%d}", (int)p->pid, info->si_status);
    else emit("{\"event\":\"exit\",\"pid\":%d,\"signal\":%d}", (int)p->pid, info->si_status);
}

bool reap(int *run_code) {
    bool run_ended = false;
    for (;;) {
        siginfo_t info = {0};
        /* WNOWAIT: until it is collected its process group's id cannot be given to somebody else. */
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return run_ended;
        struct process *p = processes;
        while (p < processes + MAX_PROCESSES && p->pid != info.si_pid) p++;
        if (p == processes + MAX_PROCESSES) { /* an orphan that came to us as PID 1 */
            waitpid(info.si_pid, NULL, 0);
            continue;
        }
        kill(-p->pid, SIGKILL); /* what it left behind in its group */
        waitpid(p->pid, NULL, 0);
        report(p, &info);
        if (p->is_run) {
            run_ended = true;
            *run_code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
        }
        close(p->status);
        if (p->socket >= 0) hang_up(p->socket);
        *p = (struct process){0};
        n_processes--;
    }
}

void end_processes(void) {
    int code;
    for (struct process *p = processes; p < processes + MAX_PROCESSES; p++)
        if (p->pid) kill(-p->pid, SIGTERM);
    for (int64_t until = now_ms() + GRACE; n_processes > 0 && now_ms() < until; usleep(5000)) reap(&code);
    for (struct process *p = processes; p < processes + MAX_PROCESSES; p++)
        if (p->pid) kill(-p->pid, SIGKILL);
    if (spare >= 0) close(spare);
}
