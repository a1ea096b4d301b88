/* lineload: load for servers that answer every request line with a reply line.
 *
 *   lineload HOST PORT CONNECTIONS DEPTH SECONDS REQUEST_FILE [RATE]
 *
 * Closed loop: DEPTH copies of the file's one line are outstanding on each connection; when
 * all are answered, the next DEPTH leave in one send. With RATE, open loop: a request falls due
 * every 1/RATE seconds whether or not earlier ones were answered, on one connection after the
 * other, and its latency counts from when it was due. So a server that stalls is charged for
 * every request that would have come meanwhile (no coordinated omission).
 *
 * One thread, so it uses one core at most; an open loop spins on it. Every connection is asked
 * once, and has answered, before the clock starts; the first tenth of the time is not counted.
 *
 * Prints JSON: replies per second; p50, p99 and p999 in microseconds; bad (replies without
 * "code":0), broken (connections), unanswered (still due one second after an open loop's end).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINE (16 << 20)
#define BUCKETS 10000000 /* of 1 us; the last one holds all that took longer */
#define HEAD 48          /* as much of a reply as "code":0 is looked for in */

typedef struct {
    int fd, writing;
    double *due;             /* ring: when each unanswered request was due */
    size_t first, next, room; /* of the ring; room is a power of two */
    size_t unsent, offset;   /* bytes to send; where in the line they begin */
    char head[HEAD];
    size_t head_len;
} conn;

static conn *conns;
static int epoll_fd, n_conns, depth, alive;
static char *lines;                   /* copies of the request line */
static size_t line_len, lines_len;
static uint32_t histogram[BUCKETS];
static unsigned long answered, counted, bad, broken, unanswered;
static double warm = 1e18;            /* what comes from here on counts */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void watch(conn *c, int writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, c->writing < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &e);
    c->writing = writing;
}

static void lost(conn *c) {
    if (c->fd < 0) return;
    broken++;
    alive--;
    close(c->fd);
    c->fd = -1;
}

static void record(double due, double t) {
    if (due < warm) return;
    long us = (long)((t - due) * 1e6);
    histogram[us < 0 ? 0 : us < BUCKETS ? us : BUCKETS - 1]++;
}

static void ask(conn *c, double due) {
    if (c->next - c->first == c->room) {
        double *ring = malloc(2 * c->room * sizeof *ring);
        for (size_t i = 0; i < c->room; i++) ring[i] = c->due[(c->first + i) & (c->room - 1)];
        free(c->due);
        c->due = ring, c->next = c->room, c->first = 0, c->room *= 2;
    }
    c->due[c->next++ & (c->room - 1)] = due;
    c->unsent += line_len;
}

static void flush(conn *c) {
    while (c->unsent) {
        size_t len = lines_len - c->offset < c->unsent ? lines_len - c->offset : c->unsent;
        ssize_t n = send(c->fd, lines + c->offset, len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) lost(c);
            else if (!c->writing) watch(c, 1);
            return;
        }
        c->unsent -= n;
        c->offset = (c->offset + n) % line_len;
    }
    if (c->writing) watch(c, 0);
}

static void ask_many(conn *c, int count, double due) {
    for (int i = 0; i < count; i++) ask(c, due);
    flush(c);
}

static void keep_head(conn *c, const char *p, size_t len) {
    size_t take = HEAD - c->head_len < len ? HEAD - c->head_len : len;
    memcpy(c->head + c->head_len, p, take);
    c->head_len += take;
}

static void replied(conn *c, double t) {
    answered++;
    if (!memmem(c->head, c->head_len, "\"code\":0", 8)) bad++;
    c->head_len = 0;
    if (c->first == c->next) { bad++; return; } /* a reply to nothing */
    record(c->due[c->first++ & (c->room - 1)], t);
    if (t >= warm) counted++;
}

static void readable(conn *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { lost(c); return; }
    double t = now();
    char *p = buffer, *end = buffer + n, *newline;
    while ((newline = memchr(p, '\n', end - p))) {
        keep_head(c, p, newline - p);
        replied(c, t);
        p = newline + 1;
    }
    keep_head(c, p, end - p);
}

/* One look at the sockets. A closed loop asks again where all is answered. */
static void turn(int timeout_ms, int again) {
    struct epoll_event events[256];
    int n = epoll_wait(epoll_fd, events, 256, timeout_ms);
    for (int i = 0; i < n; i++) {
        conn *c = events[i].data.ptr;
        if (c->fd >= 0 && events[i].events & EPOLLOUT) flush(c);
        if (c->fd >= 0 && events[i].events & ~EPOLLOUT) readable(c);
        if (c->fd >= 0 && again && c->first == c->next) ask_many(c, depth, now());
    }
}

static void open_all(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &a.sin_addr);
    int one = 1;
    for (int i = 0; i < n_conns; i++) {
        conn *c = conns + i;
        c->room = 16, c->due = malloc(c->room * sizeof *c->due), c->writing = -1;
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (void *)&a, sizeof a)) { perror("connect"); exit(2); }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        watch(c, 0);
    }
    alive = n_conns;
    for (int i = 0; i < n_conns; i++) ask_many(conns + i, 1, 0);
    double give_up = now() + 20;
    while (answered < (unsigned long)n_conns && alive && now() < give_up) turn(100, 0);
    if (answered < (unsigned long)n_conns) { fprintf(stderr, "not every connection was answered\n"); exit(2); }
}

static void closed_loop(double end) {
    for (int i = 0; i < n_conns; i++) ask_many(conns + i, depth, now());
    while (alive && now() < end) turn(100, 1);
}

static void open_loop(double start, double end, double rate) {
    unsigned long asked = 0;
    double due = start, t;
    while (alive && (t = now()) < end) {
        for (; due <= t && due < end; due = start + ++asked / rate) {
            conn *c = conns + asked % n_conns;
            if (c->fd >= 0) ask_many(c, 1, due);
        }
        turn(0, 0);
    }
}

static void finish_open(double end) {
    unsigned long in_time = counted;
    unsigned long waiting = 1;
    while (alive && waiting && now() < end + 1) {
        turn(10, 0);
        waiting = 0;
        for (int i = 0; i < n_conns; i++) waiting += conns[i].next - conns[i].first;
    }
    double t = now();
    for (int i = 0; i < n_conns; i++)
        for (conn *c = conns + i; c->first != c->next; unanswered++)
            record(c->due[c->first++ & (c->room - 1)], t);
    counted = in_time;
}

/* Microseconds; null when nothing was recorded. */
static const char *percentile(double share, char *text) {
    unsigned long total = 0, sum = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS && total; i++)
        if ((sum += histogram[i]) && sum >= total * share) {
            sprintf(text, "%d", i);
            return text;
        }
    return "null";
}

static void read_request(const char *path, int copies) {
    FILE *f = fopen(path, "rb");
    if (!f) { perror(path); exit(2); }
    char *line = malloc(MAX_LINE + 1);
    line_len = fread(line, 1, MAX_LINE, f);
    fclose(f);
    if (!line_len) { fprintf(stderr, "%s is empty\n", path); exit(2); }
    if (line[line_len - 1] != '\n') line[line_len++] = '\n';
    lines_len = line_len * copies;
    lines = malloc(lines_len);
    for (int i = 0; i < copies; i++) memcpy(lines + i * line_len, line, line_len);
    free(line);
}

int main(int argc, char **argv) {
    if (argc != 7 && argc != 8) {
        fprintf(stderr, "usage: lineload HOST PORT CONNECTIONS DEPTH SECONDS REQUEST_FILE [RATE]\n");
        return 2;
    }
    n_conns = atoi(argv[3]), depth = atoi(argv[4]);
    double seconds = atof(argv[5]), rate = argc == 8 ? atof(argv[7]) : 0;
    read_request(argv[6], depth);
    epoll_fd = epoll_create1(0);
    conns = calloc(n_conns, sizeof *conns);
    open_all(argv[1], atoi(argv[2]));
    double start = now(), end = start + seconds;
    warm = start + seconds / 10;
    if (rate > 0) open_loop(start, end, rate);
    else closed_loop(end);
    double took = now() - warm;
    if (rate > 0) finish_open(end);
    char p50[16], p99[16], p999[16];
    printf("{\"rps\": %.1f, \"p50\": %s, \"p99\": %s, \"p999\": %s, \"bad\": %lu, "
           "\"broken\": %lu, \"unanswered\": %lu}\n", counted / took, percentile(.5, p50),
           percentile(.99, p99), percentile(.999, p999), bad, broken, unanswered);
    return 0;
}
