//! Access merging: accesses at constant distances from one base share one TLB check.
//!
//! Before a block is emitted, its plain loads and stores are sorted into groups: same base value (seen
//! through additions of constants), same translation regime, all within [`REACH`] bytes. One with a store
//! asks for pages that may be written, which the engine lets through only if they may be read too. The
//! first access of a group checks the whole range of the group and leaves host address minus VA in rsi, or
//! 0 if the range crosses a page or is not plain RAM. The others take it from there, or from
//! `env.merged[slot]`, where it goes when rsi is needed in between; for a 0 they make their own check
//! behind the block. In loops it is always in `env.merged[slot]`.
//!
//! That is sound because blocks are straight lines, so the first access always comes first, and because
//! the engine zeroes `env.merged` whenever it forgets anything of the TLB. What other threads
//! forbid meanwhile (writes to pages that were just translated) is noticed at the latest by the next
//! block, which is before the guest's own instruction-cache maintenance.

use jit_ir::env::{MERGED, PAGES};
use jit_ir::{Block, MemDesc, Op, Opcode, Ty, Val};

/// Largest range of a group in bytes. Long ranges cross pages more often.
const REACH: i64 = 256;
/// Distances from here on, also on the way to the root, take no part: the sums of those below fit the
/// displacements of host instructions.
const FAR: u64 = 1 << 24;

/// How an access takes part in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Checks by itself.
    Alone,
    /// Checks from `low` bytes after (before if negative) its own address to `high`, for `slot`; also for
    /// writing if `write`.
    First { slot: u8, low: i32, high: i32, write: bool },
    /// Relies on `slot`.
    Later { slot: u8 },
}

#[derive(Clone, Copy)]
struct Group {
    root: u16,
    desc: u8,
    write: bool,
    low: i64,
    high: i64,
    first: u16,
    last: u16,
    slot: u8,
    page: u8,
}

/// The bytes that a group's accesses may touch, from `low` to `high` after the value `root`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupCheck {
    pub(crate) root: Val,
    pub(crate) low: i32,
    pub(crate) high: i32,
    pub(crate) write: bool,
    pub(crate) mmu: u8,
    pub(crate) slot: u8,
}

struct Access {
    op: u16,
    group: u16,
    at: i64,
}

/// The groups of a block.
#[derive(Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    accesses: Vec<Access>,
    next: usize,
}

const NO_SLOT: u8 = 0xff;

/// Whether an access may take part.
fn is_plain(op: &Op) -> bool {
    if !matches!(op.code, Opcode::Load | Opcode::Store) {
        return false;
    }
    let desc: MemDesc = op.mem();
    let sized = if op.ty == Ty::V128 { (2..=4).contains(&desc.log2()) } else { desc.log2() <= 3 };
    sized && !desc.is_big_endian() && !desc.is_aligned() && !desc.is_within16()
}

/// The value that an address is a constant distance from, and that distance.
fn root(block: &Block, op: &Op) -> Option<(u16, i64)> {
    let (mut v, mut at) = (op.a, op.imm);
    loop {
        if at.unsigned_abs() >= FAR {
            return None;
        }
        let def = block.ops.get(v.index())?;
        let constant =
            |c: Val| block.ops.get(c.index()).filter(|o| o.code == Opcode::Const).map(|o| o.imm);
        let step = match def.code {
            Opcode::Add => constant(def.b),
            Opcode::Sub => constant(def.b).map(i64::wrapping_neg),
            _ => None,
        };
        match step {
            Some(n) => (v, at) = (def.a, at.checked_add(n)?),
            None => break,
        }
    }
    Some((v.0, at))
}

impl Groups {
    /// All accesses check alone.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        self.accesses.clear();
        self.next = 0;
    }

    /// Sorts the accesses of a block.
    pub(crate) fn find(&mut self, block: &Block, keep: &[bool]) {
        self.clear();
        for (i, op) in block.ops.iter().enumerate() {
            if is_plain(op)
                && keep.get(i) == Some(&true)
                && let Some((root, at)) = root(block, op)
            {
                self.add(i as u16, op, root, at);
            }
        }
        self.share_slots();
    }

    /// Gives the groups whose root `steady` likes a slot each for the page that they remember; how many
    /// slots that took.
    pub(crate) fn remember_pages(&mut self, steady: impl Fn(Val) -> bool) -> usize {
        let mut used = 0;
        for g in &mut self.groups {
            if used < PAGES && steady(Val(g.root)) {
                g.page = used as u8;
                used += 1;
            }
        }
        used
    }

    /// What the groups check, each for the slot of its page; `None` if one has no such slot.
    pub(crate) fn checks(&self) -> Option<Vec<GroupCheck>> {
        let check = |g: &Group| {
            (g.page != NO_SLOT).then_some(GroupCheck {
                root: Val(g.root),
                low: g.low as i32,
                high: g.high as i32,
                write: g.write,
                mmu: g.desc,
                slot: g.page,
            })
        };
        self.groups.iter().map(check).collect()
    }

    /// Whether op `i` is an access of a group.
    pub(crate) fn holds(&self, i: u16) -> bool {
        self.accesses.iter().any(|a| a.op == i)
    }

    /// The slot for the page of the access that op `i` is; to be asked after [`Self::role`].
    pub(crate) fn page(&self, i: u16) -> Option<u8> {
        let a = self.accesses.get(self.next).filter(|a| a.op == i)?;
        Some(self.groups[usize::from(a.group)].page).filter(|p| *p != NO_SLOT)
    }

    fn add(&mut self, op: u16, access: &Op, root: u16, at: i64) {
        let (desc, write) = (access.mem().mmu(), access.code == Opcode::Store);
        let end = at + i64::from(access.mem().bytes()) - 1;
        let same = |g: &Group| g.root == root && g.desc == desc;
        let found = self.groups.iter().rposition(same).filter(|n| {
            let g = &self.groups[*n];
            g.high.max(end) - g.low.min(at) < REACH
        });
        let group = match found {
            Some(n) => {
                let g = &mut self.groups[n];
                (g.low, g.high, g.last) = (g.low.min(at), g.high.max(end), op);
                g.write |= write;
                n
            }
            None => {
                let (low, high, first, last) = (at, end, op, op);
                self.groups.push(Group {
                    root,
                    desc,
                    write,
                    low,
                    high,
                    first,
                    last,
                    slot: NO_SLOT,
                    page: NO_SLOT,
                });
                self.groups.len() - 1
            }
        };
        self.accesses.push(Access { op, group: group as u16, at });
    }

    /// Gives slots to groups of two and more while there are any.
    fn share_slots(&mut self) {
        let mut busy_to = [None::<u16>; MERGED];
        for g in self.groups.iter_mut().filter(|g| g.last != g.first) {
            let free = busy_to.iter().position(|to| to.is_none_or(|to| to < g.first));
            if let Some(n) = free {
                busy_to[n] = Some(g.last);
                g.slot = n as u8;
            }
        }
    }

    /// Begins again with the first op.
    pub(crate) fn restart(&mut self) {
        self.next = 0;
    }

    /// Whether the group of the access that op `i` is goes on after it; to be asked after [`Self::role`].
    pub(crate) fn goes_on(&self, i: u16) -> bool {
        let access = self.accesses.get(self.next).filter(|a| a.op == i);
        access.is_some_and(|a| self.groups[usize::from(a.group)].last > i)
    }

    /// The role of the access that op `i` is; to be asked in the order of ops.
    pub(crate) fn role(&mut self, i: u16) -> Role {
        while self.accesses.get(self.next).is_some_and(|a| a.op < i) {
            self.next += 1;
        }
        let Some(a) = self.accesses.get(self.next).filter(|a| a.op == i) else {
            return Role::Alone;
        };
        let g = &self.groups[usize::from(a.group)];
        match g.slot {
            NO_SLOT => Role::Alone,
            slot if g.first == i => {
                let (low, high) = ((g.low - a.at) as i32, (g.high - a.at) as i32);
                Role::First { slot, low, high, write: g.write }
            }
            slot => Role::Later { slot },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: Opcode, ty: Ty, a: u16, b: u16, imm: i64, aux: u16) -> Op {
        Op { a: Val(a), b: Val(b), imm, aux, ..Op::new(code, ty) }
    }

    fn load(base: u16, imm: i64) -> Op {
        op(Opcode::Load, Ty::I64, base, u16::MAX, imm, MemDesc::new(3, 0).0)
    }

    fn roles(ops: Vec<Op>) -> Vec<Role> {
        let keep = vec![true; ops.len()];
        let block = Block { ops, ..Block::default() };
        let mut g = Groups::default();
        g.find(&block, &keep);
        (0..block.ops.len() as u16).map(|i| g.role(i)).collect()
    }

    #[test]
    fn accesses_near_one_base_share_a_check() {
        let get = op(Opcode::Get, Ty::I64, u16::MAX, u16::MAX, 0, 0);
        let sixteen = op(Opcode::Const, Ty::I64, u16::MAX, u16::MAX, 16, 0);
        let moved = op(Opcode::Add, Ty::I64, 0, 1, 0, 0);
        let store = Op { code: Opcode::Store, b: Val(0), ..load(0, 0) };
        let far = load(0, 4096);
        let r = roles(vec![get, sixteen, load(0, 8), moved, load(3, 8), store, far, load(0, -8)]);
        assert_eq!(r[2], Role::First { slot: 0, low: -8, high: 23, write: true });
        assert_eq!(r[4], Role::Later { slot: 0 });
        assert_eq!(r[5], Role::Later { slot: 0 }, "the first asks for its permission too");
        assert_eq!(r[6], Role::Alone);
        // The far one closed the group.
        assert_eq!(r[7], Role::Alone);
    }

    #[test]
    fn distances_that_no_displacement_holds_check_alone() {
        let get = op(Opcode::Get, Ty::I64, u16::MAX, u16::MAX, 0, 0);
        let back = op(Opcode::Const, Ty::I64, u16::MAX, u16::MAX, 16 - i64::from(i32::MAX), 0);
        let moved = op(Opcode::Add, Ty::I64, 0, 1, 0, 0);
        let far = load(2, i64::from(i32::MAX) - 16);
        assert_eq!(roles(vec![get, back, moved, far, load(0, 8)]), vec![Role::Alone; 5]);
    }

    #[test]
    fn accesses_that_must_be_aligned_check_alone() {
        let get = op(Opcode::Get, Ty::I64, u16::MAX, u16::MAX, 0, 0);
        let strict = Op { aux: MemDesc::new(3, 0).aligned().0, ..load(0, 8) };
        let other = Op { aux: MemDesc::new(3, 1).0, ..load(0, 8) };
        let r = roles(vec![get, load(0, 0), strict, other]);
        assert_eq!(r, vec![Role::Alone; 4]);
    }
}
