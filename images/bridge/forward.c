/* Loopback TCP to a Unix socket: what lets programs that only know TCP use the sidecar's sockets.
 *
 * Bytes go through one shared scratch buffer; only what the other side does not take is kept (one allocation per blocked
 * direction), so memory follows the number of blocked connections, not of open ones. End of file travels in each
 * direction by itself (half-close): a client may end its request and still read a long answer.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 128,
    SCRATCH = 128 * 1024,
    ROUNDS = 8,          /* reads per direction and wake-up, so that one busy stream cannot starve the others */
    DIAL_EVERY = 10,     /* ms between attempts while the sidecar is not there, or has a full backlog */
    DIAL_FOR = 3000,     /* ms until a client is sent away */
    DISCARD_FOR = 2000,  /* ms that a client's late bytes are swallowed: closing over them would reset the answer */
    ACCEPT_PAUSE = 20,   /* ms after running out of descriptors */
};

/* One direction: what was read from the source and not yet taken by the destination. */
struct half {
    char *kept;
    size_t length, offset;
    bool eof;  /* the source has ended */
    bool shut; /* and the destination was told */
};

struct connection {
    const struct forward *via; /* NULL: a free slot */
    int tcp, unix_fd;          /* unix_fd -1: not yet dialled */
    int tcp_index, unix_index;
    struct half up, down;      /* up: client to sidecar */
    bool discard;              /* the sidecar is gone: finish `down`, swallow what still comes up */
    int64_t dial_at, expires;
};

static struct connection connections[MAX_CONNECTIONS];
static int n_connections;
static int64_t accept_at;
static char scratch[SCRATCH];

bool forward_open(struct options *options) {
    for (int i = 0; i < options->n_forwards; i++) {
        struct forward *f = &options->forwards[i];
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(f->port)};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int on = 1;
        f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (f->listener < 0 || setsockopt(f->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
            bind(f->listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(f->listener, BACKLOG) < 0) {
            dprintf(STDERR_FILENO, "bridge: cannot listen on 127.0.0.1:%d: %s\n", f->port, strerror(errno));
            return false;
        }
    }
    return true;
}

static bool pending(const struct half *h) { return h->length > h->offset; }

static void drop(struct connection *c) {
    close(c->tcp);
    if (c->unix_fd >= 0) close(c->unix_fd);
    free(c->up.kept);
    free(c->down.kept);
    memset(c, 0, sizeof *c);
    n_connections--;
    accept_at = 0;
}

/* A client that we cannot serve gets a reset, not an orderly end that could pass for an empty answer. */
static void refuse(struct connection *c) {
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->tcp, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    drop(c);
}

static void try_dial(struct connection *c) {
    int64_t now = now_ms();
    if (c->unix_fd >= 0 || now < c->dial_at) return;
    c->unix_fd = dial(c->via->path);
    if (c->unix_fd >= 0) return;
    c->dial_at = now + DIAL_EVERY;
    if (now >= c->expires) refuse(c);
}

static void accept_clients(const struct forward *f) {
    while (n_connections < MAX_CONNECTIONS) {
        int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), on = 1;
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) accept_at = now_ms() + ACCEPT_PAUSE;
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = connections;
        while (c->via) c++;
        *c = (struct connection){.via = f, .tcp = fd, .unix_fd = -1, .tcp_index = -1, .unix_index = -1};
        n_connections++;
        c->expires = now_ms() + DIAL_FOR;
        try_dial(c);
    }
}

enum flow { FLOWS, BROKEN };

static enum flow flush_kept(struct half *h, int to) {
    while (pending(h)) {
        ssize_t n = send(to, h->kept + h->offset, h->length - h->offset, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR ? FLOWS : BROKEN;
        h->offset += (size_t)n;
    }
    free(h->kept);
    *h = (struct half){.eof = h->eof, .shut = h->shut};
    return FLOWS;
}

static enum flow keep(struct half *h, const char *bytes, size_t n) {
    if (n == 0) return FLOWS;
    if (!(h->kept = malloc(n))) return BROKEN;
    memcpy(h->kept, bytes, n);
    h->length = n;
    h->offset = 0;
    return FLOWS;
}

/* Moves what can be moved from one socket to the other, without ever waiting. */
static enum flow pump(struct half *h, int from, int to, bool readable) {
    if (pending(h) && flush_kept(h, to) == BROKEN) return BROKEN;
    for (int i = 0; readable && i < ROUNDS && !h->eof && !pending(h); i++) {
        ssize_t n = recv(from, scratch, sizeof scratch, 0);
        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR) break;
            return BROKEN;
        }
        if (n == 0) {
            h->eof = true;
            break;
        }
        ssize_t sent = send(to, scratch, (size_t)n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) return BROKEN;
        if (sent < 0) sent = 0;
        if (keep(h, scratch + sent, (size_t)(n - sent)) == BROKEN) return BROKEN;
    }
    if (h->eof && !h->shut && !pending(h)) {
        shutdown(to, SHUT_WR);
        h->shut = true;
    }
    return FLOWS;
}

/* The sidecar closed its end: deliver what it said, then let go of the client gently. */
static void sidecar_gone(struct connection *c) {
    c->discard = true;
    c->up.eof = c->up.shut = true;
    c->expires = now_ms() + DISCARD_FOR;
}

static bool hung_up(int fd) {
    struct pollfd p = {.fd = fd};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

static void advance(struct connection *c, short tcp, short unix_events) {
    if (pump(&c->down, c->unix_fd, c->tcp, unix_events & (POLLIN | POLLHUP | POLLERR)) == BROKEN) return drop(c);
    if (c->discard) {
        ssize_t n = tcp ? recv(c->tcp, scratch, sizeof scratch, 0) : 1;
        bool over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        if (c->down.shut && (over || now_ms() >= c->expires)) drop(c);
        else if (over && n < 0) drop(c);
        return;
    }
    if (pump(&c->up, c->tcp, c->unix_fd, tcp & (POLLIN | POLLHUP | POLLERR)) == BROKEN) {
        if (errno != EPIPE) return drop(c);
        sidecar_gone(c);
        return;
    }
    if (c->up.shut && c->down.shut) drop(c);
    else if (c->down.eof && hung_up(c->unix_fd)) sidecar_gone(c);
}

/* A descriptor is watched only for what its direction can use now: an end of file that nobody consumes would make
 * poll() return for ever. */
static void watch_connection(struct connection *c, struct pollset *set) {
    short tcp = 0, unix_events = 0;
    c->tcp_index = c->unix_index = -1;
    if (c->unix_fd < 0) return wake_at(set, c->dial_at);
    if (c->discard ? true : !c->up.eof && !pending(&c->up)) tcp |= POLLIN;
    if (pending(&c->down)) tcp |= POLLOUT;
    if (!c->down.eof && !pending(&c->down)) unix_events |= POLLIN;
    if (pending(&c->up)) unix_events |= POLLOUT;
    if (c->discard && c->down.shut) wake_at(set, c->expires);
    if (tcp) c->tcp_index = watch(set, c->tcp, tcp);
    if (unix_events || (c->down.eof && !c->discard)) c->unix_index = watch(set, c->unix_fd, unix_events);
}

void forward_watch(struct options *options, struct pollset *set) {
    bool room = n_connections < MAX_CONNECTIONS && now_ms() >= accept_at;
    if (now_ms() < accept_at) wake_at(set, accept_at);
    for (int i = 0; i < options->n_forwards; i++) {
        struct forward *f = &options->forwards[i];
        f->index = room ? watch(set, f->listener, POLLIN) : -1;
    }
    for (struct connection *c = connections; c < connections + MAX_CONNECTIONS; c++)
        if (c->via) watch_connection(c, set);
}

void forward_dispatch(struct options *options, const struct pollset *set) {
    for (struct connection *c = connections; c < connections + MAX_CONNECTIONS; c++) {
        if (!c->via) continue;
        if (c->unix_fd < 0) {
            try_dial(c);
            continue;
        }
        short tcp = seen(set, c->tcp_index), unix_events = seen(set, c->unix_index);
        if (tcp || unix_events || c->discard) advance(c, tcp, unix_events);
    }
    for (int i = 0; i < options->n_forwards; i++)
        if (seen(set, options->forwards[i].index)) accept_clients(&options->forwards[i]);
}
