//! Operations and their encodings.

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ty {
    /// No value.
    None,
    /// 32 bits. Host registers hold it zero-extended.
    I32,
    /// 64 bits.
    I64,
    /// 128-bit vector or two 64-bit words, low word first.
    V128,
    /// The condition flags N, Z, C, V of an operation (C = carry out, i.e. 1 = no borrow).
    Cc,
}

/// A value: the index of the op that defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val(pub u16);

impl Val {
    /// Marks an unused operand.
    pub const NONE: Self = Self(u16::MAX);

    /// The index of the defining op.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Conditions over [`Ty::Cc`] values and over integer compares. The order is that of pairs, so
/// that `invert` flips bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cond {
    /// Z.
    Eq,
    /// !Z.
    Ne,
    /// C: unsigned >= after a subtraction.
    Hs,
    /// !C.
    Lo,
    /// N.
    Mi,
    /// !N.
    Pl,
    /// V.
    Vs,
    /// !V.
    Vc,
    /// C & !Z: unsigned >.
    Hi,
    /// !C | Z.
    Ls,
    /// N == V: signed >=.
    Ge,
    /// N != V.
    Lt,
    /// !Z & N == V.
    Gt,
    /// Z | N != V.
    Le,
}

impl Cond {
    /// All conditions in encoding order.
    pub const ALL: [Self; 14] = [
        Self::Eq,
        Self::Ne,
        Self::Hs,
        Self::Lo,
        Self::Mi,
        Self::Pl,
        Self::Vs,
        Self::Vc,
        Self::Hi,
        Self::Ls,
        Self::Ge,
        Self::Lt,
        Self::Gt,
        Self::Le,
    ];

    /// The condition with this number, if there is one.
    #[must_use]
    pub fn from_bits(n: u32) -> Option<Self> {
        Self::ALL.get(n as usize).copied()
    }

    /// The opposite condition.
    #[must_use]
    pub fn invert(self) -> Self {
        Self::ALL[self as usize ^ 1]
    }

    /// Evaluates over flags given as bits 3..0 = N Z C V.
    #[must_use]
    pub fn holds(self, nzcv: u32) -> bool {
        let (n, z, c, v) = (nzcv & 8 != 0, nzcv & 4 != 0, nzcv & 2 != 0, nzcv & 1 != 0);
        let base = match self as u8 >> 1 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            _ => !z && n == v,
        };
        base != (self as u8 & 1 != 0)
    }
}

/// Lane width of a vector operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// 8 bits.
    B,
    /// 16 bits.
    H,
    /// 32 bits.
    S,
    /// 64 bits.
    D,
}

impl Lane {
    /// All lanes, narrow first.
    pub const ALL: [Self; 4] = [Self::B, Self::H, Self::S, Self::D];

    /// Bits per lane.
    #[must_use]
    pub fn bits(self) -> u32 {
        8 << self as u32
    }
}

/// Read-modify-write kinds of [`Opcode::Rmw`]; the value is the old memory content,
/// zero-extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RmwKind {
    /// old + b.
    Add,
    /// old & !b.
    Clr,
    /// old ^ b.
    Xor,
    /// old | b.
    Or,
    /// signed maximum.
    SMax,
    /// signed minimum.
    SMin,
    /// unsigned maximum.
    UMax,
    /// unsigned minimum.
    UMin,
    /// b.
    Swap,
}

impl RmwKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Add,
        Self::Clr,
        Self::Xor,
        Self::Or,
        Self::SMax,
        Self::SMin,
        Self::UMax,
        Self::UMin,
        Self::Swap,
    ];
}

/// How a memory op accesses, packed into an op's `aux`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemDesc(pub u16);

impl MemDesc {
    const SIGN: u16 = 1 << 3;
    const ACQ: u16 = 1 << 8;
    const REL: u16 = 1 << 9;
    const ALIGN: u16 = 1 << 10;
    const ALIGN16: u16 = 1 << 11;
    const BIG: u16 = 1 << 12;

    /// A little-endian access of `1 << log2` bytes (0..=4) in translation regime `mmu` (0..=15).
    #[must_use]
    pub fn new(log2: u32, mmu: u8) -> Self {
        Self((log2 as u16 & 7) | (u16::from(mmu & 15) << 4))
    }
    /// A store that clears the 64 bytes, aligned to 64, that the address is in; its value is 0. A fault is
    /// reported for the address as given.
    #[must_use]
    pub fn clears64(mmu: u8) -> Self {
        Self::new(6, mmu)
    }
    /// See [`Self::clears64`].
    #[must_use]
    pub fn is_clear64(self) -> bool {
        self.log2() == 6
    }
    /// Sign-extends the loaded value to the op's type.
    #[must_use]
    pub fn signed(self) -> Self {
        Self(self.0 | Self::SIGN)
    }
    /// Load-acquire.
    #[must_use]
    pub fn acquire(self) -> Self {
        Self(self.0 | Self::ACQ)
    }
    /// Store-release.
    #[must_use]
    pub fn release(self) -> Self {
        Self(self.0 | Self::REL)
    }
    /// Faults unless naturally aligned.
    #[must_use]
    pub fn aligned(self) -> Self {
        Self(self.0 | Self::ALIGN)
    }
    /// Faults when the access crosses a 16-byte boundary (Arm FEAT_LSE2).
    #[must_use]
    pub fn within16(self) -> Self {
        Self(self.0 | Self::ALIGN16)
    }
    /// Big-endian.
    #[must_use]
    pub fn big_endian(self) -> Self {
        Self(self.0 | Self::BIG)
    }
    /// log2 of the size in bytes.
    #[must_use]
    pub fn log2(self) -> u32 {
        u32::from(self.0 & 7)
    }
    /// Size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        1 << self.log2()
    }
    /// Translation regime index.
    #[must_use]
    pub fn mmu(self) -> u8 {
        (self.0 >> 4) as u8 & 15
    }
    /// See [`Self::signed`].
    #[must_use]
    pub fn is_signed(self) -> bool {
        self.0 & Self::SIGN != 0
    }
    /// See [`Self::acquire`].
    #[must_use]
    pub fn is_acquire(self) -> bool {
        self.0 & Self::ACQ != 0
    }
    /// See [`Self::release`].
    #[must_use]
    pub fn is_release(self) -> bool {
        self.0 & Self::REL != 0
    }
    /// See [`Self::aligned`].
    #[must_use]
    pub fn is_aligned(self) -> bool {
        self.0 & Self::ALIGN != 0
    }
    /// See [`Self::within16`].
    #[must_use]
    pub fn is_within16(self) -> bool {
        self.0 & Self::ALIGN16 != 0
    }
    /// See [`Self::big_endian`].
    #[must_use]
    pub fn is_big_endian(self) -> bool {
        self.0 & Self::BIG != 0
    }
}

impl std::fmt::Debug for MemDesc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:mmu{}:{:#x}", self.bytes(), self.mmu(), self.0 >> 8)
    }
}

/// What kind of operand a field of an op is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Unused.
    No,
    /// A value of the op's own type.
    Same,
    /// A 64-bit value.
    I64,
    /// A 32-bit value.
    I32,
    /// A 32- or 64-bit value.
    Int,
    /// A vector.
    V128,
    /// Flags.
    Cc,
    /// Any value (`set`, helper arguments, stores).
    Any,
}

mod flag {
    pub(super) const FAULT: u8 = 1 << 3;
    pub(super) const EXIT: u8 = 1 << 4;
    pub(super) const EFFECT: u8 = 1 << 5;
    pub(super) const AUX: u8 = 1 << 6;
    pub(super) const IMM: u8 = 1 << 7;
}

/// What [`Opcode::info`] gives, from operand kinds and flag letters.
const fn info(args: [Arg; 3], flags: &str) -> u8 {
    let mut bits = 0;
    let mut n = 0;
    while n < 3 {
        if !matches!(args[n], Arg::No) {
            bits |= 1 << n;
        }
        n += 1;
    }
    let flags = flags.as_bytes();
    n = 0;
    while n < flags.len() {
        bits |= match flags[n] {
            b'f' => flag::FAULT,
            b'e' => flag::EXIT,
            b's' => flag::EFFECT,
            b'u' => flag::AUX,
            _ => flag::IMM,
        };
        n += 1;
    }
    bits
}

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident $text:literal [$res:ident] ($a:ident $b:ident $c:ident) $flags:literal;)*) => {
        /// Operation codes. Operands are `a`, `b` and `c` (low 16 bits of `imm`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Opcode { $($(#[$doc])* $name,)* }
        impl Opcode {
            /// Every opcode.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Name in the text form.
            #[must_use]
            pub fn text(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// Operand kinds of a, b, c.
            #[must_use]
            pub fn args(self) -> [Arg; 3] {
                const ARGS: &[[Arg; 3]] = &[$([Arg::$a, Arg::$b, Arg::$c],)*];
                ARGS[self as usize]
            }
            /// Result kind: `No` none, `Same` the op's `ty`.
            #[must_use]
            pub fn result(self) -> Arg {
                const RESULT: &[Arg] = &[$(Arg::$res,)*];
                RESULT[self as usize]
            }
            /// Bits 0..=2: operands a, b, c are in use; then [`flag`] bits.
            #[inline]
            fn info(self) -> u8 {
                const INFO: &[u8] = &[$(info([Arg::$a, Arg::$b, Arg::$c], $flags),)*];
                INFO[self as usize]
            }
        }
    };
}

// Flags: f may fault (precise state needed), e ends or may leave the block, s side effect (never
// removed), u writes aux, i uses imm beyond `c`.
opcodes! {
    /// Start of a guest instruction; `imm` = its page offset, `aux` free for the guest.
    InsnStart "insn" [No] (No No No) "sui";
    /// Constant `imm`.
    Const "const" [Same] (No No No) "i";
    /// Guest state at byte offset `imm`.
    Get "get" [Same] (No No No) "i";
    /// Writes guest state at byte offset `imm` with `a` (of type `ty`).
    Set "set" [No] (Same No No) "si";
    /// The guest's flags slot.
    GetCc "getcc" [Cc] (No No No) "";
    /// Writes the guest's flags slot.
    SetCc "setcc" [No] (Cc No No) "s";
    /// VA of the current code page plus `imm`.
    Pc "pc" [I64] (No No No) "i";
    /// a + b.
    Add "add" [Same] (Same Same No) "";
    /// a - b.
    Sub "sub" [Same] (Same Same No) "";
    /// a + b + C of c.
    AddC "addc" [Same] (Same Same Cc) "";
    /// a & b.
    And "and" [Same] (Same Same No) "";
    /// a | b.
    Or "or" [Same] (Same Same No) "";
    /// a ^ b.
    Xor "xor" [Same] (Same Same No) "";
    /// a & !b.
    AndNot "andn" [Same] (Same Same No) "";
    /// !a.
    Not "not" [Same] (Same No No) "";
    /// a * b, low half.
    Mul "mul" [Same] (Same Same No) "";
    /// High 64 bits of the unsigned product.
    MulHiU "mulhu" [I64] (I64 I64 No) "";
    /// High 64 bits of the signed product.
    MulHiS "mulhs" [I64] (I64 I64 No) "";
    /// Unsigned a / b; 0 when b is 0.
    DivU "divu" [Same] (Same Same No) "";
    /// Signed a / b toward zero; 0 when b is 0; minimum / -1 is the minimum.
    DivS "divs" [Same] (Same Same No) "";
    /// a << (b mod width).
    Shl "shl" [Same] (Same Same No) "";
    /// a >> (b mod width), zeros in.
    Shr "shr" [Same] (Same Same No) "";
    /// a >> (b mod width), sign in.
    Sar "sar" [Same] (Same Same No) "";
    /// a rotated right by (b mod width).
    Ror "ror" [Same] (Same Same No) "";
    /// Low bits of (a:b) >> aux, aux < width.
    Extr "extr" [Same] (Same Same No) "u";
    /// Unsigned field: (a >> lsb) & mask(width); aux = lsb | width << 8.
    Ubfx "ubfx" [Same] (Same No No) "u";
    /// Signed field; aux = lsb | width << 8.
    Sbfx "sbfx" [Same] (Same No No) "u";
    /// a with field (aux = lsb | width << 8) replaced by the low bits of b.
    Bfi "bfi" [Same] (Same Same No) "u";
    /// 32 to 64 bits, zeros.
    Zext32 "zext" [I64] (I32 No No) "";
    /// 32 to 64 bits, sign.
    Sext32 "sext" [I64] (I32 No No) "";
    /// Low 32 bits.
    Trunc "trunc" [I32] (I64 No No) "";
    /// Leading zeros (width for 0).
    Clz "clz" [Same] (Same No No) "";
    /// Bit reversal.
    Rbit "rbit" [Same] (Same No No) "";
    /// Byte reversal within groups of 1 << aux bytes (aux 1, 2, 3).
    Rev "rev" [Same] (Same No No) "u";
    /// Flags of op `a`, which is `add`, `sub`, `addc` or `and` (C = V = 0 for `and`).
    FlagsOf "flags" [Cc] (Int No No) "";
    /// Flags from bits 31..28 (N Z C V) of a.
    CcFromNzcv "ccfrom" [Cc] (I32 No No) "";
    /// Bits 31..28 = N Z C V.
    NzcvOf "nzcv" [I32] (Cc No No) "";
    /// Conditional compare: if cond(c) the flags of a - b (or a + b), else constant flags.
    /// aux = cond | nzcv << 4 | add << 8 | is64 << 9.
    Ccmp "ccmp" [Cc] (Int Int Cc) "u";
    /// 1 if cond (aux) holds in a, else 0.
    CondVal "condval" [Same] (Cc No No) "u";
    /// cond (aux) in c ? a : b.
    Select "select" [Same] (Same Same Cc) "u";
    /// 1 if the integer compare a cond b holds, else 0; aux = cond (of a - b), not Mi..Vc.
    CmpSet "cmpset" [I64] (Int Int No) "u";
    /// Memory load from a + imm; aux = MemDesc.
    Load "load" [Same] (I64 No No) "fsui";
    /// Memory store of b (of type `ty`) to a + imm; aux = MemDesc.
    Store "store" [No] (I64 Same No) "fsui";
    /// Load that also sets the exclusive monitor; aux = MemDesc.
    LoadEx "loadex" [Same] (I64 No No) "fsu";
    /// Store of b (of type `ty`) if the monitor holds; value 0 stored, 1 not; aux = MemDesc.
    StoreEx "storeex" [I32] (I64 Same No) "fsu";
    /// Clears the exclusive monitor.
    ClearEx "clrex" [No] (No No No) "s";
    /// Atomic read-modify-write at a with b; imm bits 0..8 = RmwKind; aux = MemDesc.
    Rmw "rmw" [Same] (I64 Same No) "fsui";
    /// Atomic compare-and-swap at a: if equal to b store c; value the old content; aux = MemDesc.
    Cas "cas" [Same] (I64 Same Same) "fsu";
    /// Memory barrier; aux: 1 loads, 2 stores, 3 both.
    Fence "fence" [No] (No No No) "su";
    /// Helper call; aux = helper index; args a, b, c; imm bits 32..64 = immediate argument.
    /// `ty` is None or I64.
    Call "call" [Same] (Any Any Any) "fsui";
    /// Records the return address page + imm in the return ring (a call follows).
    PushReturn "pushret" [No] (No No No) "si";
    /// Leaves through exit `imm` if cond (aux) holds in a.
    ExitIfCc "exitcc" [No] (Cc No No) "esui";
    /// Leaves through exit `imm` if a is not 0.
    ExitIfNz "exitnz" [No] (Int No No) "esi";
    /// Leaves through exit `imm` if a is 0.
    ExitIfZ "exitz" [No] (Int No No) "esi";
    /// Leaves through exit `imm` if bit (aux & 63) of a equals aux >> 8.
    ExitIfBit "exitbit" [No] (Int No No) "esui";
    /// Leaves through exit `imm`; last op of every block.
    ExitTo "exit" [No] (No No No) "esi";
    /// Two 64-bit words: low a, high b.
    VFrom64 "vfrom64" [V128] (I64 I64 No) "";
    /// 64-bit lane aux (0, 1).
    VGet64 "vget64" [I64] (V128 No No) "u";
    /// The low bits of a in every lane (aux = Lane).
    VDup "vdup" [V128] (I64 No No) "u";
    /// a & b.
    VAnd "vand" [V128] (V128 V128 No) "";
    /// a | b.
    VOr "vor" [V128] (V128 V128 No) "";
    /// a ^ b.
    VXor "vxor" [V128] (V128 V128 No) "";
    /// a & !b.
    VAndNot "vandn" [V128] (V128 V128 No) "";
    /// Lane-wise a + b (aux = Lane).
    VAdd "vadd" [V128] (V128 V128 No) "u";
    /// Lane-wise a - b (aux = Lane).
    VSub "vsub" [V128] (V128 V128 No) "u";
    /// Lane-wise equality mask (aux = Lane).
    VCmpEq "vcmpeq" [V128] (V128 V128 No) "u";
    /// Lane-wise unsigned minimum (aux = Lane B, H or S).
    VMinU "vminu" [V128] (V128 V128 No) "u";
    /// Lane-wise unsigned maximum (aux = Lane B, H or S).
    VMaxU "vmaxu" [V128] (V128 V128 No) "u";
    /// a with its high 64 bits cleared.
    VLow64 "vlow64" [V128] (V128 No No) "";
    /// Lane-wise mask of signed a > b (aux = Lane).
    VCmpGt "vcmpgt" [V128] (V128 V128 No) "u";
    /// Lane-wise signed minimum (aux = Lane B, H or S).
    VMinS "vmins" [V128] (V128 V128 No) "u";
    /// Lane-wise signed maximum (aux = Lane B, H or S).
    VMaxS "vmaxs" [V128] (V128 V128 No) "u";
    /// Lane-wise low half of a * b (aux = Lane H or S).
    VMul "vmul" [V128] (V128 V128 No) "u";
    /// Unsigned 64-bit products of the even 32-bit lanes.
    VMulU32 "vmulu32" [V128] (V128 V128 No) "";
    /// Signed 64-bit products of the even 32-bit lanes.
    VMulS32 "vmuls32" [V128] (V128 V128 No) "";
    /// Lane-wise a << n (aux = Lane | n << 8); 0 from the lane's width on.
    VShl "vshl" [V128] (V128 No No) "u";
    /// Lane-wise a >> n, zeros in (aux = Lane | n << 8); 0 from the lane's width on.
    VShr "vshr" [V128] (V128 No No) "u";
    /// Lane-wise a >> n, sign in (aux = Lane | n << 8); the sign from the lane's width on.
    VSar "vsar" [V128] (V128 No No) "u";
    /// Byte i = 0 if bit 7 of byte i of b is set, else the byte of a that its low 4 bits number.
    VShuffle "vshuffle" [V128] (V128 V128 No) "";
    /// The lanes of the low halves of a and b in turn, a first (aux = Lane).
    VZipLo "vziplo" [V128] (V128 V128 No) "u";
    /// The lanes of the high halves of a and b in turn, a first (aux = Lane).
    VZipHi "vziphi" [V128] (V128 V128 No) "u";
    /// The even lanes of a, then those of b (aux = Lane).
    VEven "veven" [V128] (V128 V128 No) "u";
    /// The odd lanes of a, then those of b (aux = Lane).
    VOdd "vodd" [V128] (V128 V128 No) "u";
    /// 16 bytes from byte aux (0..=15) of a followed by b.
    VExt "vext" [V128] (V128 V128 No) "u";
    /// The lanes of the low half, sign-extended to twice their width (aux = Lane B, H or S).
    VSxt "vsxt" [V128] (V128 No No) "u";
    /// The lanes of the low half, zero-extended to twice their width (aux = Lane B, H or S).
    VUxt "vuxt" [V128] (V128 No No) "u";
    /// Lane n of a in every lane (aux = Lane | n << 8).
    VDupLane "vduplane" [V128] (V128 No No) "u";
    /// AES ShiftRows and SubBytes. The AES operations and `VClMul` are only for hosts that have them.
    VAesEnc "vaesenc" [V128] (V128 No No) "";
    /// AES InvShiftRows and InvSubBytes.
    VAesDec "vaesdec" [V128] (V128 No No) "";
    /// AES MixColumns.
    VAesMix "vaesmix" [V128] (V128 No No) "";
    /// AES InvMixColumns.
    VAesUnmix "vaesunmix" [V128] (V128 No No) "";
    /// `VAesMix` of `VAesEnc`.
    VAesRound "vaesround" [V128] (V128 No No) "";
    /// `VAesUnmix` of `VAesDec`.
    VAesUnround "vaesunround" [V128] (V128 No No) "";
    /// SHA-256: four rounds on a to d in a, e to h in b, words in c; e to h if aux = 1, else a to d. These
    /// are only for hosts that have them.
    VSha256 "vsha256" [V128] (V128 V128 V128) "u";
    /// SHA-256: words of a plus sigma0 of those after them, the last that of b's lowest.
    VSha256S0 "vsha256s0" [V128] (V128 V128 No) "";
    /// SHA-256: words of a plus sigma1 of those two before them, the first that of b's third.
    VSha256S1 "vsha256s1" [V128] (V128 V128 No) "";
    /// Polynomial product of 64-bit lane aux (0, 1) of both.
    VClMul "vclmul" [V128] (V128 V128 No) "u";
    /// Lane n of a, zero-extended (aux = Lane | n << 8).
    VLane "vlane" [I64] (V128 No No) "u";
    /// a with lane n replaced by the low bits of b (aux = Lane | n << 8).
    VSetLane "vsetlane" [V128] (V128 I64 No) "u";
    /// Floating point on one vector; aux of this and the next five = [`crate::fp::FpDesc`]. They raise
    /// exception flags and are not pure.
    Fp1 "fp1" [V128] (V128 No No) "su";
    /// Floating point on two vectors.
    Fp2 "fp2" [V128] (V128 V128 No) "su";
    /// Fused multiply-add: a and b are the factors, c is the addend.
    Fp3 "fp3" [V128] (V128 V128 V128) "su";
    /// Flags of a compare of the lowest lanes.
    FpCmp "fpcmp" [Cc] (V128 V128 No) "su";
    /// The lowest lane as an integer.
    FpToInt "fptoint" [Same] (V128 No No) "su";
    /// An integer in the lowest lane.
    FpFromInt "fpfromint" [V128] (Int No No) "su";
    /// The guest's floating-point flags are in its state from here on.
    FpSync "fpsync" [No] (No No No) "s";
}

impl Opcode {
    /// Bit n: operand n (a, b, c) is in use, though it may be [`Val::NONE`] in calls.
    #[must_use]
    #[inline]
    pub fn operand_mask(self) -> u8 {
        self.info() & 7
    }
    /// Guest state must be exact here: the op may fault or call out.
    #[must_use]
    #[inline]
    pub fn may_fault(self) -> bool {
        self.info() & flag::FAULT != 0
    }
    /// The op leaves the block, always or sometimes.
    #[must_use]
    #[inline]
    pub fn is_exit(self) -> bool {
        self.info() & flag::EXIT != 0
    }
    /// Must not be removed even if its value is unused.
    #[must_use]
    #[inline]
    pub fn has_effect(self) -> bool {
        self.info() & flag::EFFECT != 0
    }
    /// [`Self::has_effect`] or [`Self::is_exit`].
    #[must_use]
    #[inline]
    pub fn must_stay(self) -> bool {
        self.info() & (flag::EFFECT | flag::EXIT) != 0
    }
    /// One of the vector operations, which are pure.
    #[must_use]
    #[inline]
    pub fn is_vector(self) -> bool {
        self as u8 >= Self::VFrom64 as u8 && !self.is_fp()
    }
    /// Floating point, with [`Op::fp`].
    #[must_use]
    #[inline]
    pub fn is_fp(self) -> bool {
        self as u8 >= Self::Fp1 as u8
    }
    /// `aux` carries meaning.
    #[must_use]
    pub fn uses_aux(self) -> bool {
        self.info() & flag::AUX != 0
    }
    /// `imm` carries meaning beyond operand c.
    #[must_use]
    pub fn uses_imm(self) -> bool {
        self.info() & flag::IMM != 0
    }
}

/// One operation, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// What it does.
    pub code: Opcode,
    /// Type of the value, or of the operands where the opcode says `Same`.
    pub ty: Ty,
    /// Per-opcode detail.
    pub aux: u16,
    /// First operand.
    pub a: Val,
    /// Second operand.
    pub b: Val,
    /// Immediate; its low 16 bits are operand c where the opcode has one.
    pub imm: i64,
}

impl Op {
    /// An op without operands.
    #[must_use]
    pub fn new(code: Opcode, ty: Ty) -> Self {
        Self { code, ty, aux: 0, a: Val::NONE, b: Val::NONE, imm: 0 }
    }
    /// Operand c.
    #[must_use]
    #[inline]
    pub fn c(&self) -> Val {
        Val(self.imm as u16)
    }
    /// The immediate argument of a [`Opcode::Call`].
    #[must_use]
    pub fn call_imm(&self) -> u32 {
        (self.imm >> 32) as u32
    }
    /// The memory descriptor.
    #[must_use]
    pub fn mem(&self) -> MemDesc {
        MemDesc(self.aux)
    }
    /// The condition in the low bits of `aux`.
    #[must_use]
    pub fn cond(&self) -> Cond {
        Cond::ALL[usize::from(self.aux & 15).min(13)]
    }
    /// The lane in `aux`.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::ALL[usize::from(self.aux & 3)]
    }
    /// The shift count or lane number in the high byte of `aux`.
    #[must_use]
    pub fn vector_imm(&self) -> u32 {
        u32::from(self.aux >> 8)
    }
    /// What an op with [`Opcode::is_fp`] does.
    #[must_use]
    pub fn fp(&self) -> crate::fp::FpDesc {
        crate::fp::FpDesc(self.aux)
    }
    /// The read-modify-write kind in `imm`.
    #[must_use]
    pub fn rmw(&self) -> RmwKind {
        RmwKind::ALL[(self.imm as u8 as usize).min(8)]
    }
    /// Type of the defined value.
    #[must_use]
    pub fn result_ty(&self) -> Ty {
        match self.code.result() {
            Arg::No => Ty::None,
            Arg::I64 => Ty::I64,
            Arg::I32 => Ty::I32,
            Arg::V128 => Ty::V128,
            Arg::Cc => Ty::Cc,
            Arg::Same | Arg::Int | Arg::Any => self.ty,
        }
    }
    /// The operands that are in use.
    #[inline]
    pub fn operands(&self) -> impl Iterator<Item = Val> {
        let used = self.code.operand_mask();
        [self.a, self.b, self.c()]
            .into_iter()
            .enumerate()
            .filter(move |(n, v)| used >> n & 1 != 0 && *v != Val::NONE)
            .map(|(_, v)| v)
    }
    /// Calls `f` with each operand in use (the quick way for back ends).
    #[inline]
    pub fn each_operand(&self, mut f: impl FnMut(Val)) {
        let used = self.code.operand_mask();
        if used & 1 != 0 && self.a != Val::NONE {
            f(self.a);
        }
        if used & 2 != 0 && self.b != Val::NONE {
            f(self.b);
        }
        if used & 4 != 0 && self.c() != Val::NONE {
            f(self.c());
        }
    }
}
