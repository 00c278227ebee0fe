// Speed of a disk in a guest: disk-bench DEVICE read|write seq|rand BYTES DEPTH SECONDS. Each of DEPTH threads
// moves BYTES at once past the page cache; prints megabytes and requests per second. Writes destroy the disk.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64 };

static const char *path;
static int writes, jumps, threads;
static size_t block;
static off_t size;
static double seconds, begun;
static uint64_t total[MOST];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *run(void *number) {
    int n = (int)(intptr_t)number;
    int fd = open(path, (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    void *memory;
    if (fd < 0 || posix_memalign(&memory, 4096, block)) fail(path);
    memset(memory, n, block);
    uint64_t seed = n * 7919 + 1;
    off_t blocks = size / block, at = blocks / threads * n;
    while (now() - begun < seconds) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        off_t k = jumps ? (off_t)((seed >> 33) % blocks) : at++ % blocks;
        ssize_t done = writes ? pwrite(fd, memory, block, k * block) : pread(fd, memory, block, k * block);
        if (done != (ssize_t)block) fail("transfer");
        total[n] += block;
    }
    return 0;
}

int main(int count, char **args) {
    if (count != 7) return 2;
    path = args[1];
    writes = args[2][0] == 'w';
    jumps = args[3][0] == 'r';
    block = atol(args[4]);
    threads = atoi(args[5]);
    seconds = atof(args[6]);
    if (threads < 1 || threads > MOST || block < 512) return 2;
    int fd = open(path, O_RDONLY);
    size = lseek(fd, 0, SEEK_END);
    close(fd);
    pthread_t all[MOST];
    uint64_t sum = 0;
    begun = now();
    for (int i = 0; i < threads; i++) pthread_create(all + i, 0, run, (void *)(intptr_t)i);
    for (int i = 0; i < threads; i++) {
        pthread_join(all[i], 0);
        sum += total[i];
    }
    double took = now() - begun;
    printf("%s %s %s %zu x %d: %.1f MB/s, %.0f/s\n", path, args[2], args[3], block, threads, sum / took / 1e6,
           sum / took / block);
    return 0;
}
