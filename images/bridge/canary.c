/* The fence's self-test, from the seat of whoever will run here. Each fact is one JSON line; one wrong fact and nothing runs.
 *
 * It must be harmless where the fence is broken: an address is first asked for by connect() on a datagram socket, which
 * is a route lookup and sends nothing. Only where that is refused is TCP tried, and then it fails locally, too. The two
 * exceptions are loopback addresses (a resolver of the engine may sit there), which never leave this network namespace.
 */
#define _GNU_SOURCE
#include "bridge.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { LINK_FOR = 15000, LINK_EVERY = 2, LOOPBACK_FOR = 200 }; /* ms: the sidecar starts at the same time as we do */

static bool all_ok;

static void fact(const char *name, bool ok, const char *saw) {
    all_ok &= ok;
    if (!ok) dprintf(STDERR_FILENO, "bridge: the fence is broken here: %s: %s\n", name, saw);
    emit("{\"event\":\"canary\",\"name\":\"%s\",\"ok\":%s,\"saw\":\"%s\"}", json(name), ok ? "true" : "false", json(saw));
}

static bool is_refusal(int error) {
    /* EADDRNOTAVAIL and EAFNOSUPPORT: no address of that family, or no such family at all (IPv6 switched off). */
    return error == ENETUNREACH || error == ECONNREFUSED || error == EHOSTUNREACH || error == EADDRNOTAVAIL ||
           error == EAFNOSUPPORT || error == EACCES || error == EPERM;
}

/* errno of a connect(); 0 if it went through. A refusal by the routing table comes at once, one by a loopback address
 * after a moment; what takes longer stays EINPROGRESS, which is no refusal. */
static int try_connect(int type, const struct sockaddr *address, socklen_t length) {
    int fd = socket(address->sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errno;
    int error = connect(fd, address, length) == 0 ? 0 : errno;
    struct pollfd waiting = {.fd = fd, .events = POLLOUT};
    if (error == EINPROGRESS && poll(&waiting, 1, LOOPBACK_FOR) == 1) {
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    close(fd);
    return error;
}

/* A datagram socket on loopback learns at its next call that nobody listens. */
static int try_datagram(const struct sockaddr *address, socklen_t length) {
    char byte;
    int fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errno;
    int error = 0;
    if (connect(fd, address, length) < 0 || send(fd, "", 0, MSG_NOSIGNAL) < 0 || recv(fd, &byte, 1, 0) < 0) error = errno;
    close(fd);
    return error;
}

static socklen_t parse_address(const char *text, int port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1) return 0;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static bool is_loopback(const struct sockaddr_storage *address) {
    if (address->ss_family == AF_INET) return (ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static void check_address(const char *label, const char *text, int port) {
    struct sockaddr_storage address;
    char name[128];
    socklen_t length = parse_address(text, port, &address);
    if (!length) return fact(label, false, "not an address");
    const struct sockaddr *to = (const struct sockaddr *)&address;
    int udp = is_loopback(&address) ? try_datagram(to, length) : try_connect(SOCK_DGRAM, to, length);
    snprintf(name, sizeof name, "udp-%s", label);
    fact(name, is_refusal(udp), udp ? errno_name(udp) : is_loopback(&address) ? "answered" : "a route");
    snprintf(name, sizeof name, "tcp-%s", label);
    if (!is_refusal(udp) && !is_loopback(&address)) return fact(name, false, "a route (not tried)");
    int tcp = try_connect(SOCK_STREAM, to, length);
    fact(name, is_refusal(tcp), tcp ? errno_name(tcp) : "connected");
}

/* The resolvers that a program here would ask. */
static void check_resolvers(void) {
    char line[256], text[128], label[160];
    int n = 0;
    FILE *file = fopen("/etc/resolv.conf", "re");
    while (file && n < 8 && fgets(line, sizeof line, file)) {
        if (sscanf(line, "nameserver %127s", text) != 1) continue;
        text[strcspn(text, "%")] = 0; /* a zone: fe80::1%eth0 */
        if (strcmp(text, "127.0.0.11") == 0) continue; /* checked in any case */
        snprintf(label, sizeof label, "dns-%s", text);
        check_address(label, text, 53);
        n++;
    }
    if (file) fclose(file);
    check_address("dns-127.0.0.11", "127.0.0.11", 53);
}

/* Only the loopback may be up. Tunnel drivers of the kernel leave devices that are down in every namespace. */
static void check_interfaces(void) {
    char line[512], found[256] = "";
    FILE *file = fopen("/proc/net/dev", "re");
    if (!file) return fact("interfaces", false, "/proc/net/dev cannot be read");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    while (fgets(line, sizeof line, file)) {
        struct ifreq request = {0};
        char *colon = strchr(line, ':'), *name = line + strspn(line, " ");
        if (!colon || colon - name >= IFNAMSIZ) continue;
        *colon = 0;
        if (strcmp(name, "lo") == 0) continue;
        strcpy(request.ifr_name, name);
        if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP)) continue;
        if (strlen(found) + strlen(name) + 2 < sizeof found) strcat(strcat(found, *found ? "," : ""), name);
    }
    fclose(file);
    if (fd >= 0) close(fd);
    fact("interfaces", !*found, *found ? found : "lo");
}

/* `column`: where a line of the table names its device, counted from 0; -1: the last. */
static void check_routes(const char *name, const char *path, int column, bool header) {
    char line[512];
    FILE *file = fopen(path, "re");
    if (!file) return fact(name, errno == ENOENT, errno == ENOENT ? "no such family" : errno_name(errno));
    for (int n = 0; fgets(line, sizeof line, file); n++) {
        char *save = NULL, *device = NULL;
        if (header && n == 0) continue;
        char *word = strtok_r(line, " \t\n", &save);
        for (int i = 0; word; i++, word = strtok_r(NULL, " \t\n", &save))
            if (column < 0 || i == column) device = word;
        if (!device || strcmp(device, "lo") == 0) continue;
        fact(name, false, device);
        fclose(file);
        return;
    }
    fclose(file);
    fact(name, true, "none");
}

static void check_privileges(void) {
    static const char *sets[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"};
    char line[256], held[64] = "", value[64] = "unknown";
    int n_sets = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
            if (strncmp(line, sets[i], strlen(sets[i])) != 0) continue;
            n_sets++;
            if (strtoull(line + strlen(sets[i]), NULL, 16)) sscanf(line, "%63[^\n]", held);
        }
        sscanf(line, "NoNewPrivs: %63s", value);
    }
    if (file) fclose(file);
    fact("capabilities", n_sets >= 3 && !*held, n_sets < 3 ? "unknown" : *held ? held : "none");
    fact("no-new-privileges", strcmp(value, "1") == 0, value);
    snprintf(value, sizeof value, "%u", (unsigned)getuid());
    fact("user", getuid() != 0, value);
}

/* Services of a hypervisor are behind AF_VSOCK whatever the network is; it has no namespaces. Only asked for, never used. */
static void check_vsock(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fact("vsock", fd < 0, fd < 0 ? errno_name(errno) : "a socket");
    if (fd >= 0) close(fd);
}

static void check_read_only(const char *name, const char *path) {
    struct statvfs info;
    if (statvfs(path, &info) < 0) return fact(name, false, errno_name(errno));
    fact(name, info.f_flag & ST_RDONLY, info.f_flag & ST_RDONLY ? "read-only" : "writable");
}

/* The positive control: without it a container in which nothing works at all would pass. Returns the connection. */
static int check_link(const struct options *options, const char *path, int64_t until) {
    char name[PATH_MAX + 16], folder[PATH_MAX];
    const char *base = strrchr(path, '/');
    int fd;
    while ((fd = dial(path)) < 0 && now_ms() < until && still_wanted(options, LINK_EVERY)) {}
    snprintf(name, sizeof name, "link-%s", base ? base + 1 : path);
    fact(name, fd >= 0, fd >= 0 ? "connected" : errno_name(errno));
    snprintf(folder, sizeof folder, "%.*s", base ? (int)(base - path) : 1, base ? path : ".");
    snprintf(name, sizeof name, "read-only-%s", base ? base + 1 : path);
    check_read_only(name, folder);
    return fd;
}

bool canary(const struct options *options) {
    int64_t start = now_ms(), until = start + LINK_FOR;
    all_ok = true;
    check_interfaces();
    check_routes("routes-v4", "/proc/net/route", 0, true);
    check_routes("routes-v6", "/proc/net/ipv6_route", -1, false);
    check_address("metadata", "169.254.169.254", 80);
    check_address("internet", "192.0.2.1", 443);
    check_address("internet-v6", "2001:db8::1", 443);
    check_resolvers();
    check_vsock();
    check_privileges();
    check_read_only("root", "/");
    int64_t negative = now_ms();
    /* A fence that is broken is told at once: waiting for the sidecar would only hide it behind a time-out. */
    if (all_ok) {
        for (int i = 0; i < options->n_forwards; i++) close(check_link(options, options->forwards[i].path, until));
        /* A server's socket: what is connected once stays, as the first spare; the sidecar may already count on it. */
        if (options->serve) serve_adopt(check_link(options, options->serve, until));
    }
    emit("{\"event\":\"canary-done\",\"ok\":%s,\"ms\":%lld,\"waited\":%lld}", all_ok ? "true" : "false",
         (long long)(negative - start), (long long)(now_ms() - negative));
    return all_ok;
}
