# Early boot of an arm64 kernel under a debugger: break, step, watch, every register class, threads,
# detach and attach again. The caller sets $port's place with: target remote, through `connect`.
set confirm off
set pagination off
set architecture aarch64
connect
echo \n[entry]\n
info threads
hbreak *0x40200000
continue
printf "entry pc %#lx x0 %#lx\n", $pc, $x0
stepi
printf "step moved %d\n", $pc != 0x40200000
# The kernel keeps what it was started with: x0 becomes the address of boot_args.
while $x0 == 0x48000000
  stepi
end
stepi
set $boot_args = $x0
watch *(unsigned long *)$boot_args
continue
printf "boot args hold %#lx\n", *(unsigned long *)$boot_args
delete
echo \n[registers]\n
info registers x29 sp cpsr
p/x $v31.d.u
p/x $fpsr
p/x $fpcr
p/x $SCTLR_EL1
p/x $MAIR_EL1
set $x28 = 0x1234567890abcdef
set $v7.d.u[1] = 0x55
printf "written %#lx %#lx\n", $x28, $v7.d.u[1]
echo \n[memory]\n
set *(unsigned int *)0x44000000 = 0xfeedface
printf "virtual %#x\n", *(unsigned int *)0x44000000
maint packet Qqemu.PhyMemMode:1
printf "physical %#x\n", *(unsigned int *)0x44000000
maint packet Qqemu.PhyMemMode:0
monitor info status
echo \n[again]\n
detach
connect
printf "attached again, pc moved %d\n", $pc != $boot_args
thread apply all printf "thread %d pc %d\n", $_thread, $pc != 0
kill
