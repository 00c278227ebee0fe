// Random instructions one by one: each is executed with random registers and memory, and a digest of what it left is
// printed, a line each. The words are in random-words.bin, made by `cargo xtask a64rand`, which compares the
// lines with those of another emulator.
//
// A load or store gets a base near the middle of a window and a small index. The word is followed by BRK, so
// that every case ends in the exception handler, which is also where faults of the word go. The digest has
// X0 to X30, SP, V0 to V31, NZCV, FPSR, ESR, FAR (data aborts), ELR and the window.

    .arch armv8.2-a
    .include "common.inc"
    .include "mmu.inc"

    .equ WINDOW, 0x48000000     // 1 MiB is used around its middle
    .equ MIDDLE, WINDOW + 0x80000

    .macro random               // x0 = random; x20 state, x21 multiplier
    eor x20, x20, x20, lsl #13
    eor x20, x20, x20, lsr #7
    eor x20, x20, x20, lsl #17
    mul x0, x20, x21
    .endm

    .macro mix reg              // the digest in x22
    eor x22, x22, \reg
    mul x22, x22, x21
    eor x22, x22, x22, lsr #29
    .endm

// x0 = a value, often a special one. Changes x1, x2.
value:
    random
    lsr x1, x0, #60
    random
    cmp x1, #5
    b.hi 1f
    adr x2, specials
    and x0, x0, #31
    ldr x0, [x2, x0, lsl #3]
    ret
1:  cmp x1, #7
    b.hi 2f
    mov x2, #1
    lsl x0, x2, x0
    ret
2:  cmp x1, #9
    b.hi 3f
    sxtw x0, w0
3:  ret

    .balign 8
specials:
    .quad 0, -1, 1, -2, 0x7fffffffffffffff, 0x8000000000000000, 0x80000000, 0x7fffffff
    .quad 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000    // 1, infinity
    .quad 0x7ff8000000000001, 0x7ff0000000000001, 0x0000000000000001, 0x0010000000000000    // NaNs, small
    .quad 0x7fefffffffffffff, 0x8000000000000001, 0x4330000000000001, 0xc1e0000000200000    // large, conversions
    .quad 0x3f8000003f800000, 0xbf800000ff800000, 0x7f8000007fc00001, 0x7f80000100000001    // singles
    .quad 0x007fffff00800000, 0x7f7fffff80000001, 0x4f0000005f000000, 0x33800000cb000001
    .quad 0x3c003c00bc007c00, 0x7e017c0100010400, 0x7bff80018400fc00, 0x0000ffff00ff8080    // halves

main:
    mmu_on
    mrs x0, tcr_el1             // T1SZ too must be valid, for the shape of pointers
    orr x0, x0, #24 << 16
    msr tcr_el1, x0
    // Pointer authentication: all keys, all enabled (SCTLR_EL1.EnIA, EnIB, EnDA, EnDB). Where none is, the peer does
    // nothing for XPACI and XPACD, against Arm ARM C6.2 (XPACD, XPACI: Strip() asks for no enable).
    .arch armv8.3-a
    ldr x0, =0x2545f4914f6cdd1d
    .irp key, apia, apib, apda, apdb, apga
    msr \key\()keylo_el1, x0
    ror x0, x0, #7
    msr \key\()keyhi_el1, x0
    ror x0, x0, #13
    .endr
    .arch armv8.2-a
    mrs x0, sctlr_el1
    ldr x1, =0xc8002000
    orr x0, x0, x1
    msr sctlr_el1, x0
    mov x0, #3 << 20
    msr cpacr_el1, x0
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    isb
next:                           // variables in memory: everything else is the case's
    adrp x0, stacks
    mov sp, x0
    clrex
    adrp x19, number
    ldr x23, [x19, :lo12:number]
    ldr x0, =words_end
    ldr x1, =words
    sub x0, x0, x1
    cmp x23, x0, lsr #2
    b.hs poweroff
    ldr x21, =0x2545f4914f6cdd1d
    ldr x20, =0xd1b54a32d192ed03
    add x0, x23, #1
    mul x20, x20, x0
    ldr x0, =words
    ldr w24, [x0, x23, lsl #2]
    add x23, x23, #1
    str x23, [x19, :lo12:number]
    // Registers.
    ldr x25, =registers
    mov x26, #0
1:  bl value
    str x0, [x25, x26, lsl #3]
    add x26, x26, #1
    cmp x26, #96
    b.lo 1b
    ldr x27, =MIDDLE
    random
    and x0, x0, #0xff0          // SP is aligned
    add x0, x0, x27
    str x0, [x25, #31 * 8]
    // Loads and stores: bits 27 and 25 are 1 and 0.
    tbz w24, #27, 2f
    tbnz w24, #25, 2f
    ubfx w1, w24, #16, #5
    random
    and x0, x0, #63
    cmp w1, #31
    b.eq 3f
    str x0, [x25, w1, uxtw #3]
3:  ubfx w1, w24, #5, #5
    random
    lsr x2, x0, #61
    and x0, x0, #0xff0
    cbnz x2, 4f
    eor x0, x0, x20, lsr #60    // one of 8 is not aligned
4:  add x0, x0, x27
    cmp w1, #31
    b.eq 2f
    str x0, [x25, w1, uxtw #3]
2:  // The window: 4 KiB from 2 KiB before the middle.
    sub x26, x27, #2048
    mov x28, #512
5:  random
    str x0, [x26], #8
    subs x28, x28, #1
    b.ne 5b
    // The word.
    ldr x26, =slot
    str w24, [x26]
    dc cvau, x26
    dsb ish
    ic ivau, x26
    dsb ish
    isb
    // FPCR: mostly 0, else AHP, DN, FZ, RMode, FZ16.
    random
    ldr x1, =0x07c80000
    and x1, x0, x1
    tst x0, #3
    csel x1, x1, xzr, eq
    msr fpcr, x1
    msr fpsr, xzr
    random
    and x0, x0, #0xf0000000
    msr nzcv, x0
    add x0, x25, #256
    .irp n, 0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30
    ldp q\n, q31, [x0], #32
    .endr
    add x0, x25, #256
    .irp n, 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31
    ldr q\n, [x0, #\n * 16]
    .endr
    ldr x0, [x25, #31 * 8]
    mov sp, x0
    mov x30, x25
    .irp n, 0,2,4,6,8,10,12,14,16,18,20,22,24,26,28
    ldr x\n, [x30, #\n * 8]
    .endr
    .irp n, 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29
    ldr x\n, [x30, #\n * 8]
    .endr
    ldr x30, [x30, #30 * 8]
    b slot
    .ltorg

    .balign 64
slot:
    nop
    brk #0x77
    .balign 64

    .balign 2048
vectors:
    .skip 0x200
    msr tpidr_el1, x30
    adrp x30, registers
    add x30, x30, :lo12:registers
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
    str x\n, [x30, #\n * 8]
    .endr
    b ended
    .balign 2048

ended:
    mov x25, x30
    mrs x0, tpidr_el1
    str x0, [x25, #30 * 8]
    mov x0, sp
    str x0, [x25, #31 * 8]
    adrp x0, stacks
    mov sp, x0
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str q\n, [x25, #256 + \n * 16]
    .endr
    ldr x21, =0x2545f4914f6cdd1d
    mov x22, #0
    mov x26, #0
1:  ldr x0, [x25, x26, lsl #3]
    mix x0
    add x26, x26, #1
    cmp x26, #96
    b.lo 1b
    mrs x0, spsr_el1
    and x0, x0, #0xf0000000
    mix x0
    mrs x0, fpsr
    mix x0
    mrs x1, esr_el1
    mix x1
    mrs x0, elr_el1
    mix x0
    lsr x0, x1, #26
    cmp x0, #0x25
    b.ne 2f
    mrs x0, far_el1
    mix x0
2:  ldr x26, =MIDDLE - 2048
    mov x28, #512
3:  ldr x0, [x26], #8
    mix x0
    subs x28, x28, #1
    b.ne 3b
    mov x0, x22
    bl puthex
    b next
    .ltorg

    .balign 4
words:
    .incbin "random-words.bin"
words_end:

    .bss
    .balign 4096
registers:                      // X0 to X30, SP, V0 to V31
    .skip 4096
number:
    .skip 8
