/* SMP stress inside a Linux guest: the only program of an initrd, /init.
 *
 * Eight workers fork, map, signal, compress and checksum for as many seconds as the kernel command line says
 * (stress=N), each checking its own results; threads of one process count together. Prints a line every ten
 * seconds, and at the end STRESS ok or what was wrong. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, SIZE = 64 << 10 };

struct shared {
    _Atomic uint64_t rounds[WORKERS];
    _Atomic uint64_t errors;
    char what[200];
};
static struct shared *shared;
static uint64_t end_ns;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void wrong(const char *what)
{
    if (atomic_fetch_add(&shared->errors, 1) == 0)
        strncpy(shared->what, what, sizeof shared->what - 1);
}

static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static uint32_t crc(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int i = 0; i < 8; i++)
            c = c >> 1 ^ (0xedb88320 & -(c & 1));
    }
    return ~c;
}

/* LZ77 with a hash of three bytes: literals in runs, matches of 3 to 130 bytes. */
static size_t squeeze(const uint8_t *in, size_t n, uint8_t *out)
{
    static __thread uint32_t table[4096];
    memset(table, 0, sizeof table);
    size_t o = 0, at = 0, lit = 0;
    while (at < n) {
        size_t len = 0, from = 0;
        if (at + 3 < n) {
            uint32_t h = (in[at] * 33 + in[at + 1] * 65 + in[at + 2] * 257) & 4095;
            from = table[h];
            table[h] = at + 1;
            if (from-- && at - from < 65536)
                while (len < 130 && at + len < n && in[from + len] == in[at + len])
                    len++;
        }
        if (len >= 4 || lit == 127) {
            if (lit) {
                out[o++] = lit;
                memcpy(out + o, in + at - lit, lit);
                o += lit;
                lit = 0;
            }
            if (len >= 4) {
                out[o++] = 0x80 | (len - 4);
                out[o++] = (at - from) & 255;
                out[o++] = (at - from) >> 8;
                at += len;
                continue;
            }
        }
        lit++;
        at++;
    }
    if (lit) {
        out[o++] = lit;
        memcpy(out + o, in + n - lit, lit);
        o += lit;
    }
    return o;
}

static size_t expand(const uint8_t *in, size_t n, uint8_t *out)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        uint8_t c = in[i++];
        if (c & 0x80) {
            size_t len = (c & 127) + 4, back = in[i] | in[i + 1] << 8;
            i += 2;
            while (len--) {
                out[o] = out[o - back];
                o++;
            }
        } else {
            memcpy(out + o, in + i, c);
            o += c;
            i += c;
        }
    }
    return o;
}

static void compressing(uint64_t *s)
{
    uint8_t *in = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *mid = mmap(0, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *out = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (in == MAP_FAILED || mid == MAP_FAILED || out == MAP_FAILED)
        return wrong("mmap");
    for (size_t i = 0; i < SIZE; i++)
        in[i] = next(s) % 7 ? in[i ? i - 1 - next(s) % (i < 300 ? i : 300) : 0] : next(s);
    uint32_t c = crc(in, SIZE);
    size_t n = squeeze(in, SIZE, mid);
    mprotect(in, SIZE, PROT_READ);
    if (expand(mid, n, out) != SIZE || crc(out, SIZE) != c || memcmp(in, out, SIZE))
        wrong("compression");
    munmap(in, SIZE);
    munmap(mid, 2 * SIZE);
    munmap(out, SIZE);
}

static void forking(uint64_t *s)
{
    int fd[2];
    uint64_t want = 0, got = 0;
    uint64_t *mem = mmap(0, 32 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pipe(fd) || mem == MAP_FAILED)
        return wrong("pipe");
    for (int i = 0; i < 32 * 512; i += 37)
        want += mem[i] = next(s);
    pid_t child = fork();
    if (child == 0) {
        uint64_t sum = 0;
        for (int i = 0; i < 32 * 512; i++)
            sum += mem[i];
        for (int i = 0; i < 32 * 512; i += 512)
            mem[i] = ~mem[i];
        _exit(write(fd[1], &sum, 8) != 8);
    }
    int status = -1;
    if (child < 0 || read(fd[0], &got, 8) != 8 || waitpid(child, &status, 0) != child || status)
        wrong("child");
    uint64_t after = 0;
    for (int i = 0; i < 32 * 512; i++)
        after += mem[i];
    if (got != want || after != want)
        wrong("copy on write");
    close(fd[0]);
    close(fd[1]);
    munmap(mem, 32 * 4096);
}

static volatile sig_atomic_t signals, faults;
static uint8_t *volatile guarded;
static void on_signal(int n)
{
    (void)n;
    signals++;
}
static void on_fault(int n)
{
    (void)n;
    faults++;
    mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

static void signalling(uint64_t *s)
{
    struct sigaction a = { .sa_handler = on_signal }, f = { .sa_handler = on_fault };
    sigaction(SIGUSR1, &a, 0);
    sigaction(SIGSEGV, &f, 0);
    signals = faults = 0;
    double x = 1.0 + (next(s) & 255), y = x;
    for (int i = 0; i < 50; i++) {
        y = y * 1.0000001 + 0.5;
        raise(SIGUSR1);
        y = (y - 0.5) / 1.0000001;
    }
    guarded = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 10; i++) {
        mprotect(guarded, 4096, PROT_READ);
        guarded[i] = i;
    }
    if (signals != 50 || faults != 10 || guarded[9] != 9 || y - x > 1e-6 || x - y > 1e-6)
        wrong("signals");
    munmap(guarded, 4096);
}

static _Atomic uint64_t counter;
static uint64_t locked_counter;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *counting(void *unused)
{
    (void)unused;
    for (int i = 0; i < 2000; i++) {
        atomic_fetch_add(&counter, 1);
        pthread_mutex_lock(&lock);
        locked_counter++;
        pthread_mutex_unlock(&lock);
    }
    return 0;
}

static void threads(void)
{
    pthread_t t[4];
    counter = locked_counter = 0;
    for (int i = 0; i < 4; i++)
        if (pthread_create(&t[i], 0, counting, 0))
            return wrong("pthread_create");
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], 0);
    if (counter != 8000 || locked_counter != 8000)
        wrong("threads");
}

static void files(uint64_t *s, int worker)
{
    char name[40];
    snprintf(name, sizeof name, "/tmp/%d", worker);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    uint64_t buf[512];
    for (int i = 0; i < 512; i++)
        buf[i] = next(s);
    uint32_t c = crc((void *)buf, sizeof buf);
    for (int i = 0; i < 16; i++)
        if (write(fd, buf, sizeof buf) != sizeof buf)
            wrong("write");
    uint8_t *p = mmap(0, 16 * 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED || crc(p + 4096 * (*s % 16), 4096) != c)
        wrong("file");
    munmap(p, 16 * 4096);
    close(fd);
    unlink(name);
}

static void work(int n)
{
    uint64_t s = 0x9e3779b97f4a7c15ull * (n + 1);
    while (now() < end_ns) {
        compressing(&s);
        forking(&s);
        signalling(&s);
        threads();
        files(&s, n);
        shared->rounds[n]++;
    }
    _exit(0);
}

int main(void)
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0755);
    mount("proc", "/proc", "proc", 0, 0);
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    mount("tmpfs", "/tmp", "tmpfs", 0, 0);
    int console = open("/dev/console", O_RDWR);
    for (int i = 0; i < 3; i++)
        dup2(console, i);
    setvbuf(stdout, 0, _IOLBF, 0);
    const char *given = getenv("stress");
    uint64_t seconds = given ? strtoull(given, 0, 0) : 60;
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t start = now();
    end_ns = start + seconds * 1000000000ull;
    for (int i = 0; i < WORKERS; i++)
        if (fork() == 0)
            work(i);
    while (now() < end_ns && !shared->errors) {
        sleep(10);
        uint64_t sum = 0, least = ~0ull;
        for (int i = 0; i < WORKERS; i++) {
            sum += shared->rounds[i];
            least = shared->rounds[i] < least ? shared->rounds[i] : least;
        }
        printf("STRESS %llu s: %llu rounds, least %llu\n",
               (unsigned long long)((now() - start) / 1000000000), (unsigned long long)sum,
               (unsigned long long)least);
    }
    int status;
    while (!shared->errors && wait(&status) > 0)
        if (status)
            wrong("a worker died");
    if (shared->errors)
        printf("STRESS WRONG: %s\n", shared->what);
    else
        printf("STRESS ok\n");
    sync();
    reboot(RB_POWER_OFF);
}
