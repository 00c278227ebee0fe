// A guest that writes to its disk for as long as it is asked to, and knows what must be there.
//
// It drives the first virtio block device on the machine virt's MMIO transports (version 2) with
// one queue and one request at a time. Each round writes one block of 4 KiB at a place that a
// simple generator picks, filled with words of the round and the place, and notes the word. A
// character on the console ends the writing; then every block is read back and compared with the
// notes: "GOOD" or "BAD" and the block. Blocks that were never written are compared with what was
// there at the start.
// Sources: virtio 1.2 (4.2, 2.7, 5.2), the machine's memory map.

    .include "common.inc"

    .equ SLOTS, 0x0a000000      // 32 transports, 0x200 apart
    .equ BLOCKS, 2048           // 8 MiB in blocks of 4 KiB
    .equ QSIZE, 8

main:
    ldr x19, =SLOTS
    mov x20, #32
1:  ldr w0, [x19]               // magic
    ldr w1, =0x74726976
    cmp w0, w1
    b.ne 2f
    ldr w0, [x19, #8]           // device: 2 is a disk
    cmp w0, #2
    b.eq found
2:  add x19, x19, #0x200
    subs x20, x20, #1
    b.ne 1b
    say "no disk\n"
    b poweroff

found:
    str wzr, [x19, #0x70]       // reset
    mov w0, #3                  // acknowledged, driver
    str w0, [x19, #0x70]
    str wzr, [x19, #0x24]       // features 0..31: none
    str wzr, [x19, #0x20]
    mov w0, #1                  // features 32..: version 1
    str w0, [x19, #0x24]
    str w0, [x19, #0x20]
    mov w0, #11                 // features ok
    str w0, [x19, #0x70]
    str wzr, [x19, #0x30]       // queue 0
    mov w0, #QSIZE
    str w0, [x19, #0x38]
    ldr x0, =descriptors
    str w0, [x19, #0x80]
    str wzr, [x19, #0x84]
    ldr x0, =available
    str w0, [x19, #0x90]
    str wzr, [x19, #0x94]
    ldr x0, =used
    str w0, [x19, #0xa0]
    str wzr, [x19, #0xa4]
    mov w0, #1
    str w0, [x19, #0x44]        // ready
    mov w0, #15
    str w0, [x19, #0x70]        // driver ok

    // What is there now: the first word of each block.
    ldr x21, =notes
    mov x22, #0
1:  mov w0, #0
    mov x1, x22
    bl request
    ldr x0, =buffer
    ldr x1, [x0]
    str x1, [x21, x22, lsl #3]
    add x22, x22, #1
    cmp x22, #BLOCKS
    b.ne 1b
    say "WRITING\n"

    mov x23, #1                 // rounds
    ldr x24, =88172645463325252
round:
    ldr x0, =0x09000018         // something was typed
    ldr w0, [x0]
    tbz w0, #4, check
    eor x24, x24, x24, lsl #13  // xorshift
    eor x24, x24, x24, lsr #7
    eor x24, x24, x24, lsl #17
    ubfx x22, x24, #20, #11     // the block
    orr x0, x22, x23, lsl #16
    str x0, [x21, x22, lsl #3]
    ldr x1, =buffer
    mov x2, #512
1:  str x0, [x1], #8
    subs x2, x2, #1
    b.ne 1b
    mov w0, #1
    mov x1, x22
    bl request
    tst x23, #63                // now and then everything goes to the disk
    b.ne 2f
    mov w0, #4
    mov x1, #0
    bl request
2:  add x23, x23, #1
    b round

check:
    show "rounds", x23
    mov x22, #0
1:  mov w0, #0
    mov x1, x22
    bl request
    ldr x0, =buffer
    ldr x1, [x0]
    ldr x2, [x0, #4088]         // the last word, of blocks that were written
    ldr x3, [x21, x22, lsl #3]
    cmp x1, x3
    b.ne bad
    tst x3, #0xffff0000
    b.eq 2f
    cmp x2, x3
    b.ne bad
2:  add x22, x22, #1
    cmp x22, #BLOCKS
    b.ne 1b
    mov w0, #4
    mov x1, #0
    bl request
    say "GOOD\n"
    b poweroff
bad:
    show "BAD", x22
    b poweroff

// One request: w0 kind (0 read, 1 write, 4 flush), x1 block; waits for its end.
request:
    stp x29, x30, [sp, #-16]!
    ldr x2, =header
    str w0, [x2]
    str wzr, [x2, #4]
    lsl x1, x1, #3
    str x1, [x2, #8]
    ldr x3, =descriptors
    str x2, [x3]                // the header
    mov w4, #16
    str w4, [x3, #8]
    mov w4, #1                  // goes on
    strh w4, [x3, #12]
    mov w4, #1
    strh w4, [x3, #14]
    ldr x2, =buffer             // the data
    str x2, [x3, #16]
    mov w4, #4096
    str w4, [x3, #24]
    mov w4, #3                  // goes on, written by the device
    cmp w0, #1
    b.ne 1f
    mov w4, #1
1:  strh w4, [x3, #28]
    mov w4, #2
    strh w4, [x3, #30]
    cmp w0, #4
    b.ne 2f
    mov w4, #2                  // a flush has no data
    strh w4, [x3, #14]
2:  ldr x2, =status
    mov w4, #0xff
    strb w4, [x2]
    str x2, [x3, #32]
    mov w4, #1
    str w4, [x3, #40]
    mov w4, #2
    strh w4, [x3, #44]
    strh wzr, [x3, #46]
    ldr x3, =available
    ldrh w4, [x3, #2]
    and w5, w4, #QSIZE - 1
    add x6, x3, #4
    strh wzr, [x6, w5, uxtw #1]
    dmb ish
    add w4, w4, #1
    strh w4, [x3, #2]
    dmb ish
    str wzr, [x19, #0x50]       // notify
    ldr x3, =used
3:  ldrh w5, [x3, #2]
    cmp w5, w4, uxth
    b.ne 3b
    dmb ish
    ldrb w4, [x2]
    cbz w4, 4f
    show "request failed", x4
    b poweroff
4:  ldr w4, [x19, #0x60]        // interrupts are not wanted
    str w4, [x19, #0x64]
    ldp x29, x30, [sp], #16
    ret

    .ltorg
    .bss
    .balign 4096
descriptors:
    .skip 16 * QSIZE
    .balign 64
available:
    .skip 64
    .balign 64
used:
    .skip 128
    .balign 64
header:
    .skip 16
status:
    .skip 16
    .balign 4096
buffer:
    .skip 4096
notes:
    .skip 8 * BLOCKS
