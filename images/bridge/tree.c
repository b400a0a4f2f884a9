/* A workspace of the language as files in the agent's seat: `bridge --unpack DIR SHOWN` makes files of stdin,
 * `bridge --pack DIR MOST` prints what is there by then.
 *
 *   stream = *( "F" path NUL decimal-size NUL content | "D" path NUL ) "E"
 *
 * The agent's programs write in DIR too, at any time. So every step of a path is opened relative to the one before, no
 * link is followed, and what is in the way is replaced: a link of theirs leads us nowhere. The entries of SHOWN (the
 * project; empty for none) are in DIR as links, so that a command finds its project where it starts.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 32, LONGEST_SIZE = 10 /* digits */ };
enum { TURN = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

static const char *shown;   /* the directory whose entries are shown, or "" */
static size_t bytes_left;   /* of what may be packed */
static char chunk[64 * 1024];

static _Noreturn void failed(const char *path, const char *why) {
    dprintf(STDERR_FILENO, "%s: %s\n", path, why);
    exit(EXIT_SETUP);
}

/* Links to the entries of a directory. git would take them for a checkout in which every file was replaced. */
static void show_entries(int at, const char *of) {
    DIR *directory = opendir(of);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char target[PATH_MAX];
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, ".git") == 0) continue;
        if (snprintf(target, sizeof target, "%s/%s", of, name) < (int)sizeof target) symlinkat(target, at, name);
    }
    closedir(directory);
}

/* The directory `name`, opened; made if `of` is given, and then it shows what `of` holds. -1 if there is none. */
static int step(int at, const char *name, const char *of) {
    int fd = openat(at, name, TURN);
    if (fd >= 0 || !of) return fd;
    if (errno != ENOENT && unlinkat(at, name, 0) < 0) return -1;
    if (mkdirat(at, name, 0755) < 0 || (fd = openat(at, name, TURN)) < 0) return -1;
    if (*of) show_entries(fd, of);
    return fd;
}

/* The directory that a file lies in; *name becomes what it is called there. */
static int parent_of(int root, char *path, char **name, bool make) {
    char of[PATH_MAX];
    int at = dup(root), depth = 0;
    for (char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        *slash = 0;
        if (!*path || strcmp(path, ".") == 0 || strcmp(path, "..") == 0 || ++depth > DEEPEST) failed(path, "no path inside");
        size_t used = depth == 1 ? (size_t)snprintf(of, sizeof of, "%s", shown) : strlen(of);
        if (*shown && used + strlen(path) + 2 < sizeof of) sprintf(of + used, "/%s", path);
        int next = step(at, path, make ? of : NULL);
        close(at);
        if ((at = next) < 0) return -1;
    }
    if (!*path || strcmp(path, ".") == 0 || strcmp(path, "..") == 0) failed(path, "no path inside");
    *name = path;
    return at;
}

static void read_name(char *into, size_t size) {
    for (size_t used = 0; used < size; used++) {
        int c = getchar();
        if (c == EOF) failed("stdin", "ended too early");
        if (!(into[used] = (char)c)) return;
    }
    failed("stdin", "a name is too long");
}

static void receive_file(int root, char *path, size_t size) {
    char *name, whole[PATH_MAX];
    snprintf(whole, sizeof whole, "%s", path);
    int at = parent_of(root, path, &name, true);
    if (at < 0) failed(whole, strerror(errno));
    unlinkat(at, name, 0);
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) failed(whole, strerror(errno));
    for (size_t n; size; size -= n) {
        if (!(n = fread(chunk, 1, size < sizeof chunk ? size : sizeof chunk, stdin))) failed("stdin", "ended too early");
        for (size_t done = 0; done < n;) {
            ssize_t wrote = write(fd, chunk + done, n - done);
            if (wrote < 0 && errno != EINTR) failed(whole, strerror(errno));
            if (wrote > 0) done += (size_t)wrote;
        }
    }
    close(fd);
    close(at);
}

int unpack(const char *directory, const char *of) {
    char path[PATH_MAX], size[LONGEST_SIZE + 1];
    bool made = mkdir(directory, 0700) == 0;
    int root = open(directory, TURN);
    if (root < 0) failed(directory, strerror(errno));
    shown = of;
    if (made && *shown) show_entries(root, shown);
    for (int kind; (kind = getchar()) != 'E';) {
        if (kind != 'F' && kind != 'D') failed("stdin", "is no stream of files");
        read_name(path, sizeof path);
        if (kind == 'F') {
            read_name(size, sizeof size);
            receive_file(root, path, strtoul(size, NULL, 10));
            continue;
        }
        char *name;
        int at = parent_of(root, path, &name, false);
        if (at < 0) continue;
        unlinkat(at, name, 0);
        close(at);
    }
    return 0;
}

/* A regular file, as long as it was when we looked: its size is said first, and it may be growing. */
static void send_file(int at, const char *name, const char *path) {
    struct stat found;
    int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
        size_t size = (size_t)found.st_size;
        if (size + strlen(path) > bytes_left) failed(path, "the workspace is larger than it may be");
        bytes_left -= size + strlen(path);
        printf("F%s%c%zu%c", path, 0, size, 0);
        for (size_t n; size; size -= n) {
            ssize_t got = read(fd, chunk, size < sizeof chunk ? size : sizeof chunk);
            n = got > 0 ? (size_t)got : size < sizeof chunk ? size : sizeof chunk;
            if (got <= 0) memset(chunk, 0, n); /* it became shorter: the length that was promised is kept */
            fwrite(chunk, 1, n, stdout);
        }
    }
    close(fd);
}

static void send_directory(int at, const char *below, int depth) {
    DIR *directory = fdopendir(at);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[PATH_MAX];
        struct stat found;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        if (snprintf(path, sizeof path, "%s%s%s", below, *below ? "/" : "", name) >= (int)sizeof path) continue;
        if (fstatat(at, name, &found, AT_SYMLINK_NOFOLLOW) < 0) continue;
        if (S_ISREG(found.st_mode)) send_file(at, name, path);
        int next = S_ISDIR(found.st_mode) && depth < DEEPEST ? openat(at, name, TURN) : -1;
        if (next >= 0) send_directory(next, path, depth + 1);
    }
    closedir(directory);
}

int pack(const char *directory, const char *most) {
    bytes_left = strtoul(most, NULL, 10);
    int root = open(directory, TURN);
    if (root >= 0) send_directory(root, "", 1);
    else if (errno != ENOENT) failed(directory, strerror(errno));
    putchar('E');
    return fflush(stdout) == EOF ? EXIT_SETUP : 0;
}
