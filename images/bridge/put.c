/* Stdin becomes a file (`docker exec -i AGENT bridge --put PATH`): how settings of an agent's program get into its seat,
 * whatever image that is made of. They may hold the token of the run, so the file is for its owner alone.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int refused(const char *path) {
    dprintf(STDERR_FILENO, "bridge: cannot write %s: %s\n", path, strerror(errno));
    return EXIT_SETUP;
}

int put(char *path) {
    char chunk[16 * 1024];
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0700) < 0 && errno != EEXIST && errno != EROFS) return refused(path);
        *slash = '/';
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return refused(path);
    for (ssize_t got; (got = read(STDIN_FILENO, chunk, sizeof chunk)) != 0;) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refused(path);
        for (ssize_t done = 0, n; done < got; done += n)
            if ((n = write(fd, chunk + done, (size_t)(got - done))) < 0) return refused(path);
    }
    return close(fd) < 0 ? refused(path) : 0;
}
