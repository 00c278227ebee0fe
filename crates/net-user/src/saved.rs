//! The saved state: who has which address, who is where, the connections.
//!
//! Not saved: sockets of datagrams and echoes (they are made again when the guest sends), files
//! that are being served by TFTP, pieces of datagrams.

use derive::VmState;
use device::Saved;
use net::Mac;
use vmstate::{LoadError, StateReader, StateSchema, StateWriter, VmState};

use crate::conns::MAX_CONNS;
use crate::dhcp::POOL;
use crate::out::MAX_NEIGHBOURS;
use crate::tcp::ConnState;
use crate::user::User;

/// A station of the guest.
#[derive(Clone, VmState)]
#[vmstate(name = "user-net-neighbour", version = 1)]
pub(crate) struct NeighbourState {
    pub(crate) ip: u128,
    pub(crate) mac: Mac,
}

/// A network.
#[derive(Clone, VmState)]
#[vmstate(name = "user-net", version = 1)]
pub(crate) struct StackState {
    /// Which process saved it: only there the sockets of its connections may still be.
    pub(crate) instance: u64,
    #[vmstate(max = 16)]
    pub(crate) leases: Vec<Mac>,
    #[vmstate(max = 1024)]
    pub(crate) neighbours: Vec<NeighbourState>,
    #[vmstate(max = 60_000)]
    pub(crate) conns: Vec<ConnState>,
}

const _: () = assert!(POOL == 16 && MAX_NEIGHBOURS == 1024 && MAX_CONNS == 60_000);

impl Saved for User {
    fn schema(&self) -> &'static StateSchema {
        StackState::schema()
    }

    fn save(&self, w: &mut StateWriter) {
        self.state().save(w);
    }

    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let state = StackState::load(r, version)?;
        if !state.conns.iter().all(ConnState::is_sane) {
            return Err(LoadError::Invalid("a connection that cannot be"));
        }
        self.restore(state);
        Ok(())
    }
}
