/* Stdin and stdout become a connection to a Unix socket: how the runner, which has no way into the fence of its own,
 * asks the sidecar something from the agent's very seat (`docker exec AGENT bridge --talk SOCKET`).
 *
 * One process per direction and blocking calls: neither direction can hold up the other, and there is no state to keep.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TALK_DIAL_FOR = 5000, TALK_DIAL_EVERY = 2 }; /* ms */

static char buffer[64 * 1024];

static void copy(int from, int to) {
    for (;;) {
        ssize_t got = read(from, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return;
        for (ssize_t done = 0, n; done < got; done += n) {
            n = write(to, buffer + done, (size_t)(got - done));
            if (n < 0 && errno == EINTR) n = 0;
            else if (n < 0) return;
        }
    }
}

int talk(const char *path) {
    int64_t until = now_ms() + TALK_DIAL_FOR;
    int fd;
    signal(SIGPIPE, SIG_IGN);
    while ((fd = dial(path)) < 0 && now_ms() < until) usleep(TALK_DIAL_EVERY * 1000);
    if (fd < 0 || fcntl(fd, F_SETFL, 0) < 0) {
        dprintf(STDERR_FILENO, "bridge: cannot connect to %s: %s\n", path, errno_name(errno));
        return EXIT_SETUP;
    }
    pid_t upwards = fork();
    if (upwards < 0) return EXIT_SETUP;
    if (upwards == 0) {
        copy(STDIN_FILENO, fd);
        shutdown(fd, SHUT_WR);
        _exit(0);
    }
    copy(fd, STDOUT_FILENO);
    kill(upwards, SIGKILL);
    return 0;
}
