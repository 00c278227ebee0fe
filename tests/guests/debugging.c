// The debug and performance registers as Linux uses them: breakpoints and watchpoints by
// perf_event_open(2) and ptrace(2), single steps, hardware counters. Runs as init; prints and powers off.
#define _GNU_SOURCE
#include <asm/ptrace.h>
#include <linux/elf.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t watched[4] __attribute__((aligned(64)));

__attribute__((noinline)) static void called(void) { __asm__ volatile("nop"); }

static int event(struct perf_event_attr *attr) {
    attr->size = sizeof *attr;
    attr->disabled = 1;
    attr->exclude_kernel = 1;
    return (int)syscall(SYS_perf_event_open, attr, 0, -1, -1, 0);
}

static long long breakpoint(unsigned type, const volatile void *at, unsigned len, void (*run)(void)) {
    struct perf_event_attr attr = {.type = PERF_TYPE_BREAKPOINT, .bp_type = type};
    attr.bp_addr = (uintptr_t)at;
    attr.bp_len = len;
    int fd = event(&attr);
    long long count = -1;
    if (fd < 0) return -1;
    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
    run();
    ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
    if (read(fd, &count, sizeof count) != sizeof count) count = -2;
    close(fd);
    return count;
}

static void writes(void) {
    for (int i = 0; i < 10; i++) {
        watched[1] = i;
        watched[2] = i; // beside the watched one
        (void)watched[1];
    }
}
static void bytes(void) {
    volatile uint8_t *b = (volatile uint8_t *)watched;
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)i;
}
static void calls(void) {
    for (int i = 0; i < 7; i++) called();
}

static long long counted(uint64_t config) {
    struct perf_event_attr attr = {.type = PERF_TYPE_HARDWARE, .config = config};
    int fd = event(&attr);
    long long count = -1;
    if (fd < 0) return -1;
    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
    for (volatile int i = 0; i < 100000; i++) {
    }
    ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
    if (read(fd, &count, sizeof count) != sizeof count) count = -2;
    close(fd);
    return count;
}

// A traced child: one watchpoint by its registers, then single steps.
static void traced(void) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        watched[3] = 5;
        raise(SIGSTOP);
        __asm__ volatile("mov x0, #3\n1: subs x0, x0, #1\nb.ne 1b\nmov x0, #0x5a\nbrk #7" ::: "x0", "cc");
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    struct user_hwdebug_state debug = {0};
    struct iovec io = {&debug, sizeof debug};
    ptrace(PTRACE_GETREGSET, child, NT_ARM_HW_WATCH, &io);
    printf("watchpoint registers %d\n", debug.dbg_info & 255);
    memset(&debug, 0, sizeof debug);
    debug.dbg_regs[0].addr = (uintptr_t)&watched[3];
    debug.dbg_regs[0].ctrl = 0xff << 5 | 2 << 3 | 1; // eight bytes, stores, enabled
    io.iov_len = offsetof(struct user_hwdebug_state, dbg_regs) + sizeof debug.dbg_regs[0];
    printf("set %ld\n", ptrace(PTRACE_SETREGSET, child, NT_ARM_HW_WATCH, &io));
    ptrace(PTRACE_CONT, child, 0, 0);
    waitpid(child, &status, 0);
    siginfo_t info = {0};
    ptrace(PTRACE_GETSIGINFO, child, 0, &info);
    printf("stopped %d by signal %d, code %d, at the variable %d\n", WIFSTOPPED(status), WSTOPSIG(status),
           info.si_code, info.si_addr == (void *)&watched[3]);
    debug.dbg_regs[0].ctrl = 0;
    ptrace(PTRACE_SETREGSET, child, NT_ARM_HW_WATCH, &io);
    ptrace(PTRACE_CONT, child, 0, 0);
    waitpid(child, &status, 0);
    printf("then signal %d\n", WSTOPSIG(status));
    int steps = 0;
    for (; steps < 100000; steps++) {
        ptrace(PTRACE_SINGLESTEP, child, 0, 0);
        waitpid(child, &status, 0);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) break;
        struct user_pt_regs regs;
        struct iovec at = {&regs, sizeof regs};
        ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &at);
        uint32_t word = (uint32_t)ptrace(PTRACE_PEEKTEXT, child, regs.pc, 0);
        if (word == 0xd42000e0) { // brk #7
            printf("stepped to brk, x0 %#llx\n", (unsigned long long)regs.regs[0]);
            break;
        }
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

int main(void) {
    mount("proc", "/proc", "proc", 0, 0);
    printf("writes to one word %lld\n", breakpoint(HW_BREAKPOINT_W, &watched[1], 8, writes));
    printf("reads of one word %lld\n", breakpoint(HW_BREAKPOINT_R, &watched[1], 8, writes));
    printf("both %lld\n", breakpoint(HW_BREAKPOINT_RW, &watched[1], 8, writes));
    printf("two bytes of a word %lld\n",
           breakpoint(HW_BREAKPOINT_W, (volatile char *)watched + 10, 2, bytes));
    printf("calls %lld\n", breakpoint(HW_BREAKPOINT_X, (void *)called, 4, calls));
    traced();
    long long cycles = counted(PERF_COUNT_HW_CPU_CYCLES);
    printf("cycles counted %d\n", cycles > 100000);
    printf("instructions %s\n", counted(PERF_COUNT_HW_INSTRUCTIONS) < 0 ? "not counted" : "counted");
    printf("DEBUGGING DONE\n");
    fflush(stdout);
    reboot(RB_POWER_OFF);
    for (;;) pause();
}
