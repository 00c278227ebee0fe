use super::*;

/// A card with some buffers, and what came into them.
#[derive(Default)]
struct Ring {
    room: AtomicUsize,
    /// Buffers that the driver gives, without a word, when it was refused so many times.
    late: Mutex<Option<(usize, usize)>>,
    got: Mutex<Vec<Vec<u8>>>,
}

impl Nic for Ring {
    fn info(&self) -> NicInfo {
        NicInfo { name: None, mac: [2, 0, 0, 0, 0, 1] }
    }
    fn receive(&self, frame: &Frame<'_>) -> bool {
        if self.room.load(Ordering::SeqCst) > 0 {
            self.room.fetch_sub(1, Ordering::SeqCst);
            self.got.lock().push(frame.to_vec(64));
            return true;
        }
        let mut late = self.late.lock();
        match &mut *late {
            Some((0, room)) => self.room.store(std::mem::take(room), Ordering::SeqCst),
            Some((times, _)) => *times -= 1,
            None => {}
        }
        false
    }
    fn set_link(&self, _: bool) {}
}

fn ring(room: usize) -> (evloop::EventLoop, Arc<Link>, Arc<Ring>) {
    let events = evloop::EventLoop::new().unwrap();
    let link = Link::new("n", "user", events.handle());
    let ring = Arc::new(Ring { room: room.into(), ..Ring::default() });
    let nic: Arc<dyn Nic> = ring.clone();
    assert!(link.attach(Arc::downgrade(&nic)));
    (events, link, ring)
}

#[test]
fn a_burst_waits_for_the_card_in_order() {
    let (_events, link, ring) = ring(256);
    let frame = |n: u32| n.to_be_bytes().repeat(16);
    for n in 0..6000 {
        assert!(link.deliver(&Frame::plain(&[&frame(n)])), "frame {n}");
    }
    assert!(!link.offer(&Frame::plain(&[&frame(0)])), "others wait");
    while ring.got.lock().len() < 6000 {
        assert!(link.wants_room());
        ring.room.store(256, Ordering::SeqCst);
        link.guest_has_room();
    }
    assert!((0..6000).zip(&*ring.got.lock()).all(|(n, got)| *got == frame(n)));
    assert!(link.offer(&Frame::plain(&[&frame(0)])));
    ring.room.store(0, Ordering::SeqCst);
    let mut kept = 0;
    while link.deliver(&Frame::plain(&[&frame(0)])) {
        kept += 1;
    }
    assert_eq!(kept, MAX_FRAMES, "no more than that");
}

#[test]
fn buffers_that_come_unheard_are_found() {
    // Refused twice; the buffers come before the frame is seen to wait.
    let (mut events, link, card) = ring(0);
    *card.late.lock() = Some((1, 5));
    assert!(link.deliver(&Frame::plain(&[&[1; 60]])));
    assert_eq!(card.got.lock().len(), 1);
    events.run_once(Some(std::time::Duration::ZERO)).unwrap();
    assert!(link.offer(&Frame::plain(&[&[2; 60]])), "nothing waits any more");
    // The same while those that waited are given.
    let (_events, link, card) = ring(0);
    for n in 0..4 {
        assert!(link.deliver(&Frame::plain(&[&[n; 60]])));
    }
    card.room.store(2, Ordering::SeqCst);
    *card.late.lock() = Some((0, 2));
    link.guest_has_room();
    assert_eq!(card.got.lock().len(), 4);
}

#[test]
fn frames_of_another_thread_do_not_get_stuck() {
    let (mut events, link, card) = ring(0);
    let handle = events.handle();
    let sender = {
        let link = link.clone();
        evloop::spawn("sender", move || {
            for n in 0..20_000u32 {
                while !link.deliver(&Frame::plain(&[&n.to_be_bytes().repeat(16)])) {
                    std::thread::yield_now();
                }
            }
            handle.wake();
        })
        .unwrap()
    };
    // The driver: gives buffers, and says so when it is to.
    while card.got.lock().len() < 20_000 {
        card.room.fetch_add(3, Ordering::SeqCst);
        if link.wants_room() {
            link.guest_has_room();
        }
        events.run_once(Some(std::time::Duration::ZERO)).unwrap();
    }
    sender.join().unwrap();
    let got = card.got.lock();
    let number = |frame: &Vec<u8>| u32::from_be_bytes(*frame.first_chunk().unwrap());
    assert!(got.iter().map(number).eq(0..20_000), "all, in order");
}

/// Notes that it was passed.
struct Note(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Filter for Note {
    fn pass(&self, _: &Link, _: Direction, _: &Frame<'_>) -> Verdict {
        self.1.lock().push(self.0);
        Verdict::Pass
    }
}

#[test]
fn filters_stand_where_they_were_put_and_can_be_switched() {
    let events = evloop::EventLoop::new().unwrap();
    let link = Link::new("n", "user", events.handle());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let add = |name: &'static str, place: Place, on: bool| {
        let filter: Arc<dyn Filter> = Arc::new(Note(name, seen.clone()));
        link.add_filter(name, filter.clone(), &place, on).map(|()| filter)
    };
    let b = add("b", Place::Tail, true).unwrap();
    add("d", Place::Tail, true).unwrap();
    add("a", Place::Head, true).unwrap();
    add("c", Place::Behind("b".into()), true).unwrap();
    let off = add("off", Place::Before("d".into()), false).unwrap();
    let missing = add("e", Place::Before("nobody".into()), true).map(|_| ()).unwrap_err();
    assert_eq!(missing.desc, "filter 'nobody' not found");
    let pass = || {
        assert!(link.deliver(&Frame::plain(&[&[0; 60]])));
        std::mem::take(&mut *seen.lock()).concat()
    };
    assert_eq!(pass(), "abcd");
    link.switch_filter(&off, true);
    link.switch_filter(&b, false);
    assert_eq!(pass(), "acoffd");
    link.from_guest(&Frame::plain(&[&[0; 60]]));
    assert_eq!(std::mem::take(&mut *seen.lock()).concat(), "doffca");
    link.remove_filter(&off);
    assert_eq!(pass(), "acd");
}
