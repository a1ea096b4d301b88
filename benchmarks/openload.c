/* openload: an open loop of requests with ids of their own, each written down.
 *
 *   openload HOST PORT CONNECTIONS RATE SECONDS REQUEST_FILE RECORDS_FILE
 *
 * A request falls due every 1/RATE seconds whether or not earlier ones were answered, on one
 * connection after the other; what a connection does not take yet waits here. Replies are found
 * by their ids, so that a refusal may overtake what runs. The file's one line has to hold
 * "id":1000000000, in whose place each request's own id is put.
 *
 * Unlike lineload it sleeps between requests, so that several can share a core. One second
 * after the last request it stops waiting, writes a record for each request and ends: when it
 * was due (CLOCK_MONOTONIC), the seconds from then to its reply, the reply's code; -1 for no
 * reply. Prints JSON: how many requests, how many connections broke.
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define FIRST_ID 1000000000L
#define ID "\"id\":1000000000"
#define CODE "\"code\":"
#define MAX_REPLY 4096
#define PATIENCE 1.0

typedef struct {
    double due;
    float took;
    int32_t code;
} record;

typedef struct {
    int fd, writing;
    char *out; /* requests that are not sent yet: from `begin` to `end` */
    size_t begin, end, room;
    char reply[MAX_REPLY];
    size_t reply_len;
} conn;

static conn *conns;
static record *records;
static long total, asked, open_requests;
static int epoll_fd, timer_fd, n_conns, broken;
static char *line, *line_id;
static size_t line_len;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void watch(conn *c, int op, int writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, op, c->fd, &e);
    c->writing = writing;
}

static void lost(conn *c) {
    if (c->fd < 0) return;
    close(c->fd);
    c->fd = -1;
    broken++;
}

static void flush(conn *c) {
    while (c->fd >= 0 && c->begin < c->end) {
        ssize_t n = send(c->fd, c->out + c->begin, c->end - c->begin, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) lost(c);
            else if (!c->writing) watch(c, EPOLL_CTL_MOD, 1);
            return;
        }
        c->begin += n;
    }
    c->begin = c->end = 0;
    if (c->fd >= 0 && c->writing) watch(c, EPOLL_CTL_MOD, 0);
}

static void ask(conn *c, long number) {
    char id[24];
    if (c->fd < 0) return;
    snprintf(id, sizeof id, "%ld", FIRST_ID + number);
    memcpy(line_id, id, strlen(id));
    if (c->end + line_len > c->room) c->out = realloc(c->out, c->room = 2 * (c->room + line_len));
    memcpy(c->out + c->end, line, line_len);
    c->end += line_len;
    open_requests++;
    if (!c->writing) flush(c);
}

static void replied(conn *c, double t) {
    char *id = memmem(c->reply, c->reply_len, "\"id\":1", 6);
    char *code = memmem(c->reply, c->reply_len, CODE, strlen(CODE));
    long number = id ? atol(id + 5) - FIRST_ID : -1;
    c->reply_len = 0;
    if (!code || number < 0 || number >= asked || records[number].code != -1) return;
    records[number].took = t - records[number].due;
    records[number].code = atoi(code + strlen(CODE));
    open_requests--;
}

static void readable(conn *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { lost(c); return; }
    double t = now();
    for (char *p = buffer; p < buffer + n; p++) {
        if (c->reply_len < MAX_REPLY - 1) c->reply[c->reply_len++] = *p;
        if (*p == '\n') {
            c->reply[c->reply_len] = 0;
            replied(c, t);
        }
    }
}

static void open_all(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &a.sin_addr);
    int one = 1;
    for (conn *c = conns; c < conns + n_conns; c++) {
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (void *)&a, sizeof a)) { perror("connect"); exit(2); }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        watch(c, EPOLL_CTL_ADD, 0);
    }
}

static void wake_at(double t) {
    struct itimerspec when = {.it_value = {t, (t - (long)t) * 1e9}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void turn(int timeout_ms) {
    struct epoll_event events[256];
    uint64_t ticks;
    int n = epoll_wait(epoll_fd, events, 256, timeout_ms);
    for (int i = 0; i < n; i++) {
        conn *c = events[i].data.ptr;
        if (!c) {
            if (read(timer_fd, &ticks, sizeof ticks) < 0) continue;
        } else {
            if (c->fd >= 0 && events[i].events & EPOLLOUT) flush(c);
            if (c->fd >= 0 && events[i].events & ~EPOLLOUT) readable(c);
        }
    }
}

static void run(double rate) {
    double start = now();
    while (asked < total && broken < n_conns) {
        for (double t = now(), due; asked < total && (due = start + asked / rate) <= t; asked++) {
            records[asked] = (record){due, 0, -1};
            ask(conns + asked % n_conns, asked);
        }
        if (asked < total) wake_at(start + asked / rate);
        turn(100);
    }
    for (double end = now() + PATIENCE; open_requests > 0 && broken < n_conns && now() < end;) turn(10);
}

static void read_request(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) { perror(path); exit(2); }
    line = calloc(1, MAX_REPLY);
    line_len = fread(line, 1, MAX_REPLY - 1, f);
    fclose(f);
    line_id = memmem(line, line_len, ID, strlen(ID));
    if (!line_id) { fprintf(stderr, "%s has no " ID "\n", path); exit(2); }
    line_id += strlen(ID) - 10;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: openload HOST PORT CONNECTIONS RATE SECONDS REQUEST_FILE RECORDS_FILE\n");
        return 2;
    }
    n_conns = atoi(argv[3]);
    double rate = atof(argv[4]);
    total = rate * atof(argv[5]);
    read_request(argv[6]);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    conns = calloc(n_conns, sizeof *conns);
    records = calloc(total + 1, sizeof *records);
    open_all(argv[1], atoi(argv[2]));
    run(rate);
    FILE *out = fopen(argv[7], "wb");
    if (!out || fwrite(records, sizeof *records, asked, out) != (size_t)asked || fclose(out)) {
        perror(argv[7]);
        return 2;
    }
    printf("{\"asked\": %ld, \"broken\": %d}\n", asked, broken);
    return 0;
}
