//! Guests that do anything ([`wild`]), with fixed seeds (as many as TINAMOU_WILD_SEEDS says, if set); `fuzz/fuzz_targets/wild.rs` makes more.

#[path = "../../../fuzz/wild.rs"]
mod wild;

#[test]
fn wild_guests_never_take_the_process_down() {
    let more = std::env::var("TINAMOU_WILD_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..more.unwrap_or(60u32) {
        wild::wild(&seed.to_le_bytes());
    }
}
