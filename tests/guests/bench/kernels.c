// Kernels that show what a translator is good and bad at: /init of a Linux guest, started by `cargo xtask bench`. The kernel command line
// has scale=F (work) and only=NAME. Prints "NAME X ns/op SECONDS s" for each; also builds natively.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <unistd.h>
#include <time.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <setjmp.h>
#include <signal.h>
#include <fcntl.h>
#ifdef __aarch64__
#include <arm_neon.h>
#endif
typedef uint64_t u64; typedef uint32_t u32; typedef uint8_t u8;
static double now(void){ struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t); return t.tv_sec+t.tv_nsec*1e-9; }
static volatile u64 sink; static volatile double dsink;
#define NI __attribute__((noinline))
#define NOVEC __attribute__((noinline,optimize("no-tree-vectorize")))

NI u64 k_int_alu(u64 n){ u64 a=88172645463325252ull,b=1,c=3; for(u64 i=0;i<n;i++){ a^=a<<13; a^=a>>7; a^=a<<17; b+=a&c; c=(c*5)+(b>>3); } return a+b+c; }
NI u64 k_int_branchy(u64 n){ u64 a=88172645463325252ull,s=0; for(u64 i=0;i<n;i++){ a^=a<<13; a^=a>>7; a^=a<<17; if(a&1) s+=3; else s^=a; if((a&6)==2) s-=i; if(a&0x100) s=(s<<1)|(s>>63); asm volatile(""::"r"(s)); } return s; }
static u32 crct[256];
NI u64 k_crc_table(u64 n){ static u8 buf[4096]; for(int i=0;i<256;i++){u32 c=i; for(int j=0;j<8;j++) c=c&1?0xEDB88320u^(c>>1):c>>1; crct[i]=c;} for(int i=0;i<4096;i++)buf[i]=i*7; u32 c=~0u; for(u64 r=0;r<n;r++) for(int i=0;i<4096;i++) c=crct[(c^buf[i])&255]^(c>>8); return c; }
// SHA-256 in C (register heavy, rotates)
static const u32 K[64]={0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2};
#define R(x,n) (((x)>>(n))|((x)<<(32-(n))))
NOVEC u64 k_sha256(u64 n){ u32 h[8]={1,2,3,4,5,6,7,8},w[64]; for(u64 r=0;r<n;r++){ for(int i=0;i<16;i++) w[i]=h[i&7]+i*r; for(int i=16;i<64;i++){u32 s0=R(w[i-15],7)^R(w[i-15],18)^(w[i-15]>>3),s1=R(w[i-2],17)^R(w[i-2],19)^(w[i-2]>>10); w[i]=w[i-16]+s0+w[i-7]+s1;} u32 a=h[0],b=h[1],c=h[2],d=h[3],e=h[4],f=h[5],g=h[6],hh=h[7]; for(int i=0;i<64;i++){u32 S1=R(e,6)^R(e,11)^R(e,25),ch=(e&f)^(~e&g),t1=hh+S1+ch+K[i]+w[i],S0=R(a,2)^R(a,13)^R(a,22),mj=(a&b)^(a&c)^(b&c),t2=S0+mj; hh=g;g=f;f=e;e=d+t1;d=c;c=b;b=a;a=t1+t2;} h[0]+=a;h[1]+=b;h[2]+=c;h[3]+=d;h[4]+=e;h[5]+=f;h[6]+=g;h[7]+=hh;} return h[0]^h[7]; }
static int cmpu(const void*a,const void*b){ u32 x=*(u32*)a,y=*(u32*)b; return x<y?-1:x>y; }
NI u64 k_qsort(u64 n){ static u32 v[1<<14]; u64 s=0; for(u64 r=0;r<n;r++){ u32 x=12345+r; for(int i=0;i<(1<<14);i++){x=x*1664525+1013904223; v[i]=x;} qsort(v,1<<14,4,cmpu); s+=v[77];} return s; }
static u64 *big; 
NOVEC u64 k_mem_sum_L1(u64 n){ u64 s=0; for(u64 r=0;r<n;r++){ for(int i=0;i<2048;i++) s+=big[i]; asm volatile("":::"memory"); } return s; }
NOVEC u64 k_mem_copy_L1(u64 n){ u64*a=big,*b=big+1024; for(u64 r=0;r<n;r++){ for(int i=0;i<1024;i++) b[i]=a[i]+r; asm volatile("":::"memory"); } return b[5]; }
NOVEC u64 k_mem_stream64M(u64 n){ u64 s=0; for(u64 r=0;r<n;r++){ for(u64 i=0;i<(64u<<20)/8;i++) s+=big[i]; asm volatile("":::"memory"); } return s; }
static u64 chase(u64 n,u64 bytes){ // random cyclic permutation with 64 B nodes
  u64 cnt=bytes/64; u32*p=malloc(cnt*4); for(u64 i=0;i<cnt;i++)p[i]=i; u64 x=88172645463325252ull; for(u64 i=cnt-1;i>0;i--){x^=x<<13;x^=x>>7;x^=x<<17;u64 j=x%i;u32 t=p[i];p[i]=p[j];p[j]=t;} for(u64 i=0;i<cnt;i++) big[(u64)i*8]=(u64)&big[(u64)p[i]*8]; free(p);
  u64*q=big; double t=1e9; for(int rep=0;rep<4;rep++){ double t1=now(); for(u64 i=0;i<n;i++) q=(u64*)*q; t1=now()-t1; if(t1<t)t=t1; } sink=(u64)q; dsink=t; return (u64)(t*1e9); }
NI u64 k_struct_walk(u64 n){ // linked list of small structs + field updates: typical pointer code, in 64 KB
  struct N{struct N*nx;u64 a;u32 b,c;}*v=(void*)big; int cnt=2048; for(int i=0;i<cnt;i++){v[i].nx=&v[(i*769+1)%cnt];v[i].a=i;v[i].b=i;v[i].c=0;} struct N*p=v; u64 s=0; for(u64 i=0;i<n;i++){ p->a+=s; if(p->b&1) p->c++; else p->c+=p->b; s+=p->c; p=p->nx; } return s; }
NOVEC double k_fp_scalar(u64 n){ // nbody-like dependent+independent double arithmetic incl. div/sqrt
  double x=0.1,y=0.2,z=0.3,vx=0.01,vy=0.02,vz=0.03; for(u64 i=0;i<n;i++){ double d2=x*x+y*y+z*z+0.01; double m=0.001/(d2*sqrt(d2)); vx-=x*m;vy-=y*m;vz-=z*m; x+=vx*0.01;y+=vy*0.01;z+=vz*0.01; } return x+y+z; }
NOVEC double k_fp_mandel(u64 n){ u64 it=0; double acc=0; for(u64 p=0;p<n;p++){ double cr=-0.5+((p*37)&1023)*1e-4,ci=0.3+((p*91)&1023)*1e-4,zr=0,zi=0; int k=0; while(k<200&&zr*zr+zi*zi<4.0){double t=zr*zr-zi*zi+cr; zi=2*zr*zi+ci; zr=t; k++;} it+=k; acc+=zr; } return acc+it; }
static double MA[64*64],MB[64*64],MC[64*64];
NOVEC double k_fp_matmul(u64 n){ for(int i=0;i<4096;i++){MA[i]=i*0.5;MB[i]=1.0/(i+1);} for(u64 r=0;r<n;r++) for(int i=0;i<64;i++)for(int j=0;j<64;j++){double s=0;for(int k=0;k<64;k++)s+=MA[i*64+k]*MB[k*64+j];MC[i*64+j]=s;} return MC[100]; }
static float FA[4096],FB[4096],FC[4096];
NI double k_vec_saxpy(u64 n){ for(int i=0;i<4096;i++){FA[i]=i;FB[i]=1.f/(i+1);FC[i]=0;} for(u64 r=0;r<n;r++){ for(int i=0;i<4096;i++) FC[i]=FC[i]*0.5f+FA[i]*FB[i]; asm volatile("":::"memory"); } return FC[77]; }
static u8 VA[4096],VB[4096];
NI u64 k_vec_u8(u64 n){ u64 s=0; for(int i=0;i<4096;i++){VA[i]=i*3;VB[i]=i*5;} for(u64 r=0;r<n;r++){ for(int i=0;i<4096;i++){ u8 a=VA[i],b=VB[i]; VA[i]=(a>b?a-b:b-a)+((a+b)>>1);} asm volatile("":::"memory"); s+=VA[r&4095]; } return s; }
static u32 IA[4096],IB[4096];
NI u64 k_vec_i32(u64 n){ for(int i=0;i<4096;i++){IA[i]=i*3;IB[i]=i*5;} for(u64 r=0;r<n;r++){ for(int i=0;i<4096;i++) IA[i]=(IA[i]^IB[i])*3+(IB[i]>>2); asm volatile("":::"memory"); } return IA[7]; }
NI static u64 f0(u64 x){return x+1;} NI static u64 f1(u64 x){return x^5;} NI static u64 f2(u64 x){return x*3;} NI static u64 f3(u64 x){return x-7;} NI static u64 f4(u64 x){return x<<1;} NI static u64 f5(u64 x){return x>>1;} NI static u64 f6(u64 x){return ~x;} NI static u64 f7(u64 x){return x+(x>>5);}
static u64 (*volatile ft[8])(u64)={f0,f1,f2,f3,f4,f5,f6,f7};
NI u64 k_indirect_call(u64 n){ u64 s=1,a=88172645463325252ull; for(u64 i=0;i<n;i++){ a^=a<<13; a^=a>>7; a^=a<<17; s=ft[a&7](s);} return s; }
NI u64 k_indirect_mono(u64 n){ u64 s=1; for(u64 i=0;i<n;i++) s=ft[3](s); return s; }
NI u64 fib(u64 n){ return n<2?n:fib(n-1)+fib(n-2); }
NI u64 k_fib(u64 n){ return fib(n); }
NI u64 k_switch_vm(u64 n){ // bytecode interpreter
  static const u8 code[]={0,1,2,3,4,5,6,0,2,7,3,1,5,6,4,2,0,3,8}; u64 a=1,b=2,c=3,pc=0; for(u64 i=0;i<n;i++){ switch(code[pc++]){ case 0:a+=b;break; case 1:b^=a;break; case 2:c+=a;break; case 3:a-=c;break; case 4:b+=3;break; case 5:c^=b;break; case 6:a=a*3;break; case 7:b>>=1;break; case 8:pc=0;break; default:__builtin_unreachable(); } asm volatile(""::"r"(a)); } return a+b+c; }
NI u64 k_memcpy4k(u64 n){ for(u64 i=0;i<n;i++){ memcpy(big+1024,big,4096); asm volatile("":::"memory"); } return big[1025]; }
NI u64 k_memset64k(u64 n){ for(u64 i=0;i<n;i++){ memset(big,i,65536); asm volatile("":::"memory"); } return big[5]; }
NI u64 k_strlen(u64 n){ static char b[256]; memset(b,'a',200); u64 s=0; for(u64 i=0;i<n;i++){ s+=strlen(b+(i&15)); asm volatile("":::"memory"); } return s; }
NI u64 k_atomic_add(u64 n){ static u64 v; for(u64 i=0;i<n;i++) __atomic_fetch_add(&v,i,__ATOMIC_SEQ_CST); return v; }
NI u64 k_cas(u64 n){ static u64 v; for(u64 i=0;i<n;i++){ u64 e=v; __atomic_compare_exchange_n(&v,&e,e+i,0,__ATOMIC_SEQ_CST,__ATOMIC_SEQ_CST);} return v; }
NI u64 k_udiv(u64 n){ u64 s=0,a=0x123456789abcdefull; for(u64 i=0;i<n;i++){ s+=a/(i+3); a+=s*7; } return s; }
NI u64 k_syscall(u64 n){ for(u64 i=0;i<n;i++) syscall(SYS_getppid); return 0; }
NI u64 k_ctxsw(u64 n){ int a[2],b[2]; if(pipe(a)||pipe(b))return 0; pid_t p=fork(); char c=0; if(!p){ for(u64 i=0;i<n;i++){ if(read(a[0],&c,1)!=1)_exit(1); if(write(b[1],&c,1)!=1)_exit(1);} _exit(0);} for(u64 i=0;i<n;i++){ if(write(a[1],&c,1)!=1)break; if(read(b[0],&c,1)!=1)break;} waitpid(p,0,0); close(a[0]);close(a[1]);close(b[0]);close(b[1]); return 0; }
NI u64 k_pgfault(u64 n){ for(u64 i=0;i<n;i++){ char*p=mmap(0,64*4096,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0); for(int j=0;j<64;j++)p[j*4096]=1; munmap(p,64*4096);} return 0; }
NI u64 k_fork(u64 n){ for(u64 i=0;i<n;i++){ pid_t p=fork(); if(!p)_exit(0); waitpid(p,0,0);} return 0; }
extern char**environ; static char*self;
NI u64 k_exec(u64 n){ for(u64 i=0;i<n;i++){ pid_t p=vfork(); if(!p){ char*av[]={self,"exit",0}; execve(self,av,environ); _exit(1);} waitpid(p,0,0);} return 0; }
static volatile int got; static void sh(int s){ got++; }
NI u64 k_signal(u64 n){ signal(SIGUSR1,sh); pid_t p=getpid(); for(u64 i=0;i<n;i++) kill(p,SIGUSR1); return got; }
#ifdef __aarch64__
NI u64 k_jitcode(u64 n){ u32*p=mmap(0,4096,7,MAP_PRIVATE|MAP_ANONYMOUS,-1,0); u64 s=0; for(u64 i=0;i<n;i++){ p[0]=0xd2800000u|((i&0xffff)<<5); p[1]=0xd65f03c0u; __builtin___clear_cache((char*)p,(char*)p+8); s+=((u64(*)(void))p)(); } munmap(p,4096); return s; }
__attribute__((target("+crypto"))) NI u64 k_aes(u64 n){ uint8x16_t a=vdupq_n_u8(7),k=vdupq_n_u8(0x5a); for(u64 i=0;i<n;i++){ a=vaesmcq_u8(vaeseq_u8(a,k)); } return vgetq_lane_u64(vreinterpretq_u64_u8(a),0); }
#else
#include <immintrin.h>
NI u64 k_jitcode(u64 n){ u8*p=mmap(0,4096,7,MAP_PRIVATE|MAP_ANONYMOUS,-1,0); u64 s=0; for(u64 i=0;i<n;i++){ p[0]=0xb8; *(u32*)(p+1)=i&0xffff; p[5]=0xc3; s+=((u64(*)(void))p)(); } munmap(p,4096); return s; }
__attribute__((target("aes,sse2"))) NI u64 k_aes(u64 n){ __m128i a=_mm_set1_epi8(7),k=_mm_set1_epi8(0x5a); for(u64 i=0;i<n;i++) a=_mm_aesenc_si128(a,k); return _mm_cvtsi128_si64(a); }
#endif
static int rawmode; static const char*only;
#define RUN(name,n,expr) do{ if(only&&!strstr(#name,only))break; fprintf(stderr,"%s\n",#name); double best=1e9,tot=0; for(int rep=0;rep<25;rep++){ double t=now(); expr; t=now()-t; if(t<best)best=t; tot+=t; if(tot>1.0&&rep>2)break; } printf("%-14s %12.3f ns/op  %8.3f s\n",#name,best*1e9/(n),best); fflush(stdout);}while(0)
#define K(name,n) RUN(name,(double)(n),sink=(u64)k_##name(n))
int main(int argc,char**argv){
  if(argc>1&&!strcmp(argv[1],"exit")) _exit(0);
  int init = getpid()==1; double scale=1; self=argv[0];
  if(init){ mkdir("/proc",0755); mkdir("/dev",0755); mount("proc","/proc","proc",0,0); mount("devtmpfs","/dev","devtmpfs",0,0); int fd=open("/dev/console",O_RDWR); if(fd>=0){dup2(fd,0);dup2(fd,1);} int nfd=open("/dev/null",O_WRONLY); if(nfd>=0) dup2(nfd,2); self="/init"; only=getenv("only"); if(getenv("scale"))scale=atof(getenv("scale")); }
  else { if(argc>1) scale=atof(argv[1]); if(argc>2) only=argv[2]; if(!freopen("/dev/null","w",stderr)) return 1; }
  big=mmap(0,64u<<20,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0); memset(big,1,64u<<20);
  printf("BENCH-BEGIN\n");
#define S(x) ((u64)((x)*scale)>0?(u64)((x)*scale):1)
  K(int_alu,S(5e7)); K(int_branchy,S(2e7)); K(crc_table,S(1e4)); K(sha256,S(1e5)); K(qsort,S(20)); K(udiv,S(2e7));
  K(mem_sum_L1,S(5e4)); K(mem_copy_L1,S(5e4)); K(mem_stream64M,S(4)); K(struct_walk,S(2e7));
#define CH(nm,by,n) if(!only||strstr(#nm,only)){ u64 t=chase(n,by); printf("%-14s %12.3f ns/op  %8.3f s\n",#nm,(double)t/(n),t*1e-9); fflush(stdout);} 
  CH(chase_16K,16384,S(2e7)) CH(chase_512K,512<<10,S(1e7)) CH(chase_4M,4<<20,S(4e6)) CH(chase_48M,48<<20,S(1e6))
  K(fp_scalar,S(5e6)); K(fp_mandel,S(5e4)); K(fp_matmul,S(50)); K(vec_saxpy,S(2e4)); K(vec_u8,S(4e4)); K(vec_i32,S(2e4)); K(aes,S(2e7));
  K(indirect_call,S(1e7)); K(indirect_mono,S(2e7)); K(fib,(scale>=0.5?30:26)); K(switch_vm,S(3e7));
  K(memcpy4k,S(5e5)); K(memset64k,S(3e4)); K(strlen,S(1e7)); K(atomic_add,S(1e7)); K(cas,S(1e7));
  K(syscall,S(2e6)); K(signal,S(2e5)); K(ctxsw,S(2e4)); K(pgfault,S(3e3)); K(fork,S(1e2)); K(exec,S(500)); K(jitcode,S(2e5));
  printf("BENCH-END\n"); fflush(stdout);
  if(init){ sync(); reboot(RB_POWER_OFF); for(;;)pause(); }
  return 0; }
