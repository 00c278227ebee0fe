// Small requests over TCP and UDP, many connections at once, and the server that answers them.
// Runs in a guest and on the host: `cargo xtask bench network` builds it for both.
//
//   net-bench serve ADDRESS PORT            echoes what comes, over TCP and UDP, until it is killed
//   net-bench rr tcp|udp ADDRESS PORT COUNT SIZE     one request after the other
//   net-bench conns ADDRESS PORT N ROUNDS   N connections, held until a line comes, then used
//   net-bench churn ADDRESS PORT TOTAL N    opens, uses and closes, N at a time
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static struct sockaddr_in address(const char *ip, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) fail(ip);
    return a;
}

static void nodelay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void watch(int poll, int op, int fd, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(poll, op, fd, &e)) fail("epoll_ctl");
}

static void serve(struct sockaddr_in to) {
    static char buffer[65536];
    int one = 1, tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(tcp, (void *)&to, sizeof to) || listen(tcp, 4096)) fail("bind tcp");
    if (bind(udp, (void *)&to, sizeof to)) fail("bind udp");
    watch(poll, EPOLL_CTL_ADD, tcp, EPOLLIN);
    watch(poll, EPOLL_CTL_ADD, udp, EPOLLIN);
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == tcp) {
                int got;
                while ((got = accept4(tcp, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    nodelay(got);
                    watch(poll, EPOLL_CTL_ADD, got, EPOLLIN);
                }
            } else if (fd == udp) {
                struct sockaddr_in from;
                socklen_t len = sizeof from;
                ssize_t got = recvfrom(udp, buffer, sizeof buffer, 0, (void *)&from, &len);
                if (got >= 0) sendto(udp, buffer, got, 0, (void *)&from, len);
            } else {
                ssize_t got = read(fd, buffer, sizeof buffer);
                if (got <= 0 && !(got < 0 && errno == EAGAIN)) close(fd);
                else if (got > 0 && write(fd, buffer, got) != got) close(fd);
            }
        }
    }
}

static int rr(int kind, struct sockaddr_in to, int count, int size) {
    static char buffer[65536];
    int fd = socket(AF_INET, kind, 0);
    if (connect(fd, (void *)&to, sizeof to)) fail("connect");
    if (kind == SOCK_STREAM) nodelay(fd);
    struct timeval limit = {.tv_sec = 2};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    double begin = now(), worst = 0;
    int lost = 0;
    for (int i = 0; i < count + count / 10; i++) {
        if (i == count / 10) begin = now(), worst = 0;
        double one = now();
        if (write(fd, buffer, size) != size) fail("write");
        for (int got = 0; got < size;) {
            ssize_t n = read(fd, buffer, sizeof buffer);
            if (n <= 0) {
                if (kind == SOCK_STREAM) fail("read");
                lost++;
                break;
            }
            got += n;
        }
        one = now() - one;
        if (one > worst) worst = one;
    }
    printf("RESULT us %.2f worst %.0f lost %d\n", (now() - begin) / count, worst, lost);
    return 0;
}

static int open_one(struct sockaddr_in to) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) fail("socket");
    nodelay(fd);
    if (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) fail("connect");
    return fd;
}

static int conns(struct sockaddr_in to, int n, int rounds) {
    int *fds = calloc(n, sizeof *fds), poll = epoll_create1(0);
    char buffer[64] = {0};
    struct epoll_event events[256];
    double begin = now();
    for (int i = 0; i < n; i++) {
        fds[i] = open_one(to);
        watch(poll, EPOLL_CTL_ADD, fds[i], EPOLLOUT);
    }
    for (int up = 0; up < n;) {
        int got = epoll_wait(poll, events, 256, 20000);
        if (got <= 0) fail("no connection");
        for (int i = 0; i < got; i++) {
            int error = 0;
            socklen_t len = sizeof error;
            getsockopt(events[i].data.fd, SOL_SOCKET, SO_ERROR, &error, &len);
            if (error) { errno = error; fail("connection"); }
            watch(poll, EPOLL_CTL_MOD, events[i].data.fd, EPOLLIN);
            up++;
        }
    }
    printf("RESULT open_us %.1f\n", (now() - begin) / n);
    fflush(stdout);
    fgets(buffer, sizeof buffer, stdin);
    memset(buffer, 'x', sizeof buffer);
    begin = now();
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < n; i++)
            if (write(fds[i], buffer, sizeof buffer) != sizeof buffer) fail("write");
        for (int done = 0; done < n;) {
            int got = epoll_wait(poll, events, 256, 20000);
            if (got <= 0) fail("no answer");
            for (int i = 0; i < got; i++)
                if (read(events[i].data.fd, buffer, sizeof buffer) == sizeof buffer) done++;
                else fail("read");
        }
    }
    printf("RESULT us %.2f\n", (now() - begin) / n / rounds);
    return 0;
}

static int churn(struct sockaddr_in to, int total, int n) {
    int poll = epoll_create1(0), begun = 0, ended = 0;
    struct epoll_event events[256];
    char buffer[64] = {0};
    double begin = now();
    while (ended < total) {
        while (begun < total && begun - ended < n) {
            watch(poll, EPOLL_CTL_ADD, open_one(to), EPOLLOUT);
            begun++;
        }
        int got = epoll_wait(poll, events, 256, 20000);
        if (got <= 0) fail("no answer");
        for (int i = 0; i < got; i++) {
            int fd = events[i].data.fd;
            if (events[i].events & EPOLLOUT) {
                if (write(fd, buffer, sizeof buffer) != sizeof buffer) fail("write");
                watch(poll, EPOLL_CTL_MOD, fd, EPOLLIN);
            } else {
                if (read(fd, buffer, sizeof buffer) != sizeof buffer) fail("read");
                // A reset: no port of ours waits for old segments.
                struct linger hard = {.l_onoff = ended % 2};
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
                close(fd);
                ended++;
            }
        }
    }
    printf("RESULT us %.2f\n", (now() - begin) / total);
    return 0;
}

int main(int argc, char **argv) {
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc == 4 && !strcmp(argv[1], "serve")) serve(address(argv[2], argv[3]));
    if (argc == 7 && !strcmp(argv[1], "rr")) {
        int kind = strcmp(argv[2], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
        return rr(kind, address(argv[3], argv[4]), atoi(argv[5]), atoi(argv[6]));
    }
    if (argc == 6 && !strcmp(argv[1], "conns"))
        return conns(address(argv[2], argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (argc == 6 && !strcmp(argv[1], "churn"))
        return churn(address(argv[2], argv[3]), atoi(argv[4]), atoi(argv[5]));
    fprintf(stderr, "wrong arguments\n");
    return 2;
}
