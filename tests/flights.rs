//! The flights' state machine in every order of events that shuttle thinks of: readers come and go, couriers finish, fail and
//! die. Nobody may wait for ever, no block may fly twice, and at the end no courier and no claim is left.

#![allow(clippy::unwrap_used, reason = "shuttle's locks are never poisoned here, and its tasks are joined")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use dingospeed::config::WhenClientLeaves;
use dingospeed::store::Blocks;
use shuttle::rand::{Rng, thread_rng};

use self::machine::{Bounds, Flights, Found, Presence};
use self::sync::Mutex;

#[path = "../src/mirror/flights.rs"]
mod machine;

/// Shuttle's locks in place of the system's: each is a point where the order may change.
mod sync {
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
}

const BLOCK_SIZE: u64 = 10;
const BLOCK_COUNT: u64 = 6;
const SIZE: u64 = BLOCK_SIZE * BLOCK_COUNT - 3;
const TURNS_MAX: usize = 2;

/// What is present, and which blocks are on their way.
struct World {
    present: Mutex<[bool; BLOCK_COUNT as usize]>,
    flying: Mutex<BTreeSet<u64>>,
    turns: Mutex<usize>,
    turn_count: usize,
    /// Couriers that were recruited without a turn and have not had one yet.
    recruits: Mutex<usize>,
    story: Mutex<Story>,
}

/// How far streams had come, in blocks of all of them together, when something happened.
#[derive(Default)]
struct Story {
    passed: u64,
    /// How many streams have begun.
    streams: u64,
    /// The last time a reader began to want, or a courier left its run to the stream; and how many streams had begun then.
    left_alone: u64,
    streams_then: u64,
    /// A block came.
    came: [u64; BLOCK_COUNT as usize],
}

impl World {
    fn new(present: [bool; BLOCK_COUNT as usize], turn_count: usize) -> Arc<World> {
        Arc::new(World {
            present: Mutex::new(present),
            flying: Mutex::new(BTreeSet::new()),
            turns: Mutex::new(turn_count),
            turn_count,
            recruits: Mutex::new(0),
            story: Mutex::default(),
        })
    }

    fn put(&self, block: u64) {
        let mut story = self.story.lock().unwrap();
        story.came[block as usize] = story.passed;
        self.present.lock().unwrap()[block as usize] = true;
    }

    /// From now on somebody depends on the stream alone.
    fn leave_alone(&self) {
        let mut story = self.story.lock().unwrap();
        (story.left_alone, story.streams_then) = (story.passed, story.streams);
    }
}

impl Presence for Arc<World> {
    fn blocks(&self) -> Blocks {
        Blocks { block_size: BLOCK_SIZE, size: SIZE }
    }

    fn is_present(&self, block: u64) -> bool {
        self.present.lock().unwrap()[block as usize]
    }

    fn missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        let present = self.present.lock().unwrap();
        let start = range.clone().find(|block| !present[*block as usize])?;
        let end = (start..range.end).find(|block| present[*block as usize]).unwrap_or(range.end);
        Some(start..end)
    }
}

type Machine = Arc<Flights<Arc<World>, &'static str>>;

/// What goes wrong in a run of the model.
#[derive(Clone, Copy)]
struct Trouble {
    /// Chances in percent that upstream gives the whole for a part, that a flight fails, that its courier dies, that a reader
    /// leaves early, that it is all over, and that a block has rotted when a reader looks at the one before it.
    ignores: u32,
    fails: u32,
    dies: u32,
    leaves: u32,
    ends: u32,
    rots: u32,
}

fn chance(percent: u32) -> bool {
    thread_rng().gen_range(0..100) < percent
}

fn try_turn(world: &Arc<World>) -> Option<()> {
    let mut turns = world.turns.lock().unwrap();
    *turns = turns.checked_sub(1)?;
    Some(())
}

/// As `Fill::dispatch` does it.
fn dispatch(machine: &Machine, world: &Arc<World>, trouble: Trouble) {
    while let Some(recruit) = machine.recruit(|| try_turn(world)) {
        let is_only = recruit.ready.is_none();
        let (machine, world) = (machine.clone(), world.clone());
        shuttle::future::spawn(async move { courier(&machine, &world, recruit.ready, trouble).await });
        if is_only {
            return;
        }
    }
}

/// As `courier::work` does it, but for what a connection does.
async fn courier(machine: &Machine, world: &Arc<World>, ready: Option<((), Range<u64>)>, trouble: Trouble) {
    let mut is_recruit = ready.is_none();
    let (mut turn, mut next) = ready.unzip();
    if is_recruit {
        let mut recruits = world.recruits.lock().unwrap();
        *recruits += 1;
        assert_eq!(*recruits, 1, "one that waits is enough");
    }
    loop {
        if turn.is_none() {
            let dies = chance(trouble.dies);
            if !dies {
                wait_turn(world).await;
                turn = Some(());
            }
            let waited = std::mem::take(&mut is_recruit);
            if waited {
                *world.recruits.lock().unwrap() -= 1;
            }
            if dies {
                machine.courier_died(&"died", waited);
                return;
            }
            if waited {
                machine.has_turn();
            }
        }
        if chance(trouble.ends) {
            machine.end("over");
        }
        shuttle::future::yield_now().await;
        let Some(run) = next.take().or_else(|| machine.claim()) else {
            give_turn(world, turn.take());
            return;
        };
        let streams = world.story.lock().unwrap().streams;
        dispatch(machine, world, trouble);
        shuttle::future::yield_now().await;
        if chance(trouble.ignores) {
            machine.give_back(&run);
            let begins = machine.begin_stream();
            // What it held was passed by while it held it.
            if !begins || world.story.lock().unwrap().streams > streams {
                world.leave_alone();
            }
            if !begins {
                give_turn(world, turn.take());
                return;
            }
            stream(machine, world, trouble).await;
            machine.end_stream();
        } else {
            if machine.ranges_work() {
                dispatch(machine, world, trouble);
            }
            carry(machine, world, &run, trouble).await;
        }
        let died = chance(trouble.dies);
        give_turn(world, turn.take());
        if died {
            machine.courier_died(&"died", is_recruit);
            return;
        }
        turn = try_turn(world);
        if turn.is_none() && machine.leave_to_others() {
            return;
        }
    }
}

/// As `courier::carry_run` does it, and what is told of a failure.
async fn carry(machine: &Machine, world: &Arc<World>, run: &Range<u64>, trouble: Trouble) {
    take_off(world, run);
    let failed = fly(machine, world, run, trouble).await;
    world.flying.lock().unwrap().retain(|block| !run.contains(block));
    if failed {
        machine.fail(run, &"failed");
    }
    machine.give_back(run);
}

fn take_off(world: &Arc<World>, run: &Range<u64>) {
    let mut flying = world.flying.lock().unwrap();
    for block in run.clone() {
        assert!(flying.insert(block), "block {block} flies twice");
        assert!(!world.present.lock().unwrap()[block as usize], "block {block} is there already");
    }
}

/// As `courier::carry_whole` does it.
async fn stream(machine: &Machine, world: &Arc<World>, trouble: Trouble) {
    // The wait has an end, whatever the others do.
    while machine.others_are_undecided() && !chance(30) {
        shuttle::future::yield_now().await;
    }
    let mut unwanted_until = 0;
    world.story.lock().unwrap().streams += 1;
    for block in 0..BLOCK_COUNT {
        shuttle::future::yield_now().await;
        let Some(step) = machine.step(block, unwanted_until) else { return };
        if step.wanted {
            unwanted_until = 2 * (block + 1);
        }
        world.story.lock().unwrap().passed += 1;
        if !step.claimed {
            continue;
        }
        let run = block..block + 1;
        take_off(world, &run);
        let span = world.blocks().span(block);
        machine.land(&run, span.start + 2);
        shuttle::future::yield_now().await;
        let failed = chance(trouble.fails);
        if !failed {
            world.put(block);
            machine.land(&run, span.end);
        }
        world.flying.lock().unwrap().remove(&block);
        machine.give_back(&run);
        if failed {
            machine.fail(&(block..BLOCK_COUNT), &"failed");
            return;
        }
    }
}

async fn wait_turn(world: &Arc<World>) {
    while try_turn(world).is_none() {
        shuttle::future::yield_now().await;
    }
}

fn give_turn(world: &Arc<World>, turn: Option<()>) {
    if turn.is_some() {
        *world.turns.lock().unwrap() += 1;
    }
}

/// Brings the blocks of a run in two halves each; true when it failed.
async fn fly(machine: &Machine, world: &Arc<World>, run: &Range<u64>, trouble: Trouble) -> bool {
    for block in run.clone() {
        let span = world.blocks().span(block);
        if !machine.is_wanted(span.start, true) {
            return false;
        }
        machine.land(run, span.start + 2);
        shuttle::future::yield_now().await;
        if chance(trouble.fails) {
            return true;
        }
        world.put(block);
        machine.land(run, span.end);
        shuttle::future::yield_now().await;
    }
    false
}

/// As `Kept::read` does it. Ends with all bytes of its span, an error, or by leaving.
async fn reader(machine: &Machine, world: &Arc<World>, span: Range<u64>, trouble: Trouble) {
    let mut position = span.start;
    let mut ticket = None;
    while position < span.end {
        let changed = machine.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        position = match machine.look(position, ticket) {
            Err(why) => {
                assert!(["failed", "died", "over"].contains(&why), "{why}");
                assert!(why != "over" || machine.over().is_some());
                break;
            }
            Ok(Found::Block) => {
                let block = world.blocks().of_offset(position);
                if chance(trouble.rots) && block + 1 < BLOCK_COUNT {
                    world.present.lock().unwrap()[block as usize + 1] = false;
                    machine.ring();
                }
                world.blocks().span(block).end.min(span.end)
            }
            Ok(Found::Landed(landed)) => {
                assert!(landed > position, "nothing landed behind {position}");
                landed.min(span.end)
            }
            Ok(Found::Nothing) if ticket.is_none() => {
                ticket = Some(machine.want(span.clone()).0);
                world.leave_alone();
                dispatch(machine, world, trouble);
                continue;
            }
            Ok(Found::Nothing) if ticket.is_some_and(|ticket| !machine.still_wants(ticket, position)) => {
                machine.leave(ticket.take().expect("it has one"));
                continue;
            }
            Ok(Found::Nothing) => {
                if chance(trouble.leaves) {
                    break;
                }
                if machine.load().0 == 0 {
                    dispatch(machine, world, trouble);
                }
                changed.await;
                continue;
            }
        };
        if let Some(ticket) = ticket {
            machine.advance(ticket, position);
        }
    }
    if let Some(ticket) = ticket {
        machine.leave(ticket);
    }
}

fn play(when_client_leaves: WhenClientLeaves, trouble: Trouble) {
    let world = World::new(std::array::from_fn(|_| chance(20)), thread_rng().gen_range(1..=TURNS_MAX));
    let bounds = Bounds { couriers_max: 3, run_blocks: 2, when_client_leaves };
    let machine: Machine = Arc::new(Flights::new(world.clone(), bounds));
    read_all(&machine, &world, &[0..SIZE, 15..42, 0..SIZE, 50..SIZE], trouble);
    let quiet = trouble.fails + trouble.dies + trouble.ends + trouble.rots == 0;
    if quiet && (trouble.leaves == 0 || when_client_leaves == WhenClientLeaves::FinishRequest) {
        assert!(world.present.lock().unwrap().iter().all(|present| *present), "what was wanted is not there");
    }
}

/// Lets readers of these spans read, and waits until all is quiet again.
fn read_all(machine: &Machine, world: &Arc<World>, spans: &[Range<u64>], trouble: Trouble) {
    let readers: Vec<_> = spans
        .iter()
        .cloned()
        .map(|span| {
            let (machine, world) = (machine.clone(), world.clone());
            shuttle::future::spawn(async move { reader(&machine, &world, span, trouble).await })
        })
        .collect();
    shuttle::future::block_on(async {
        for reader in readers {
            reader.await.unwrap();
        }
        // The couriers end by themselves; shuttle reports it if they do not.
        while machine.load() != (0, 0) || *world.turns.lock().unwrap() != world.turn_count {
            shuttle::future::yield_now().await;
        }
    });
    assert!(world.flying.lock().unwrap().is_empty());
}

/// A courier that hears late of ranges being ignored, when the stream has passed its block, leaves a reader behind the stream.
fn play_behind_a_stream() {
    const BLOCK: u64 = 1;
    let world = World::new([false; BLOCK_COUNT as usize], TURNS_MAX);
    let bounds = Bounds { couriers_max: 2, run_blocks: 1, when_client_leaves: WhenClientLeaves::FinishBlock };
    let machine: Machine = Arc::new(Flights::new(world.clone(), bounds));
    let ignores = Trouble { ignores: 100, ..NONE };
    read_all(&machine, &world, &[0..SIZE, BLOCK * BLOCK_SIZE..(BLOCK + 1) * BLOCK_SIZE], ignores);
    let story = world.story.lock().unwrap();
    let passed = story.came[BLOCK as usize].saturating_sub(story.left_alone);
    // The one that was under way, and those of the next stream up to it. A stream that took the place of another goes on until it has
    // come twice as far as that one did.
    let way = if story.streams_then <= 1 { 1 } else { BLOCK_COUNT };
    assert!(passed <= way + BLOCK + 1, "{passed} blocks passed before the reader's came, {} streams", story.streams_then);
}

const POLICIES: [WhenClientLeaves; 3] = [WhenClientLeaves::FinishBlock, WhenClientLeaves::FinishRequest, WhenClientLeaves::Stop];
const NONE: Trouble = Trouble { ignores: 0, fails: 0, dies: 0, leaves: 0, ends: 0, rots: 0 };
const TROUBLES: [Trouble; 10] = [
    NONE,
    Trouble { ignores: 100, leaves: 5, ..NONE },
    Trouble { ignores: 50, ..NONE },
    Trouble { ignores: 60, fails: 5, dies: 3, leaves: 5, ends: 2, ..NONE },
    Trouble { rots: 10, ..NONE },
    Trouble { ignores: 20, fails: 2, dies: 2, leaves: 5, rots: 10, ..NONE },
    Trouble { leaves: 15, ..NONE },
    Trouble { fails: 10, leaves: 5, ..NONE },
    Trouble { fails: 3, dies: 5, leaves: 5, ..NONE },
    Trouble { fails: 3, leaves: 5, ends: 5, ..NONE },
];

#[test]
fn no_order_of_events_loses_a_reader_a_block_or_a_courier() {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    for policy in POLICIES {
        for trouble in TROUBLES {
            shuttle::check_random(move || play(policy, trouble), iterations);
            shuttle::check_pct(move || play(policy, trouble), iterations, 3);
        }
    }
}

#[test]
fn nobody_waits_behind_a_stream_until_it_ends() {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(4000);
    shuttle::check_random(play_behind_a_stream, iterations);
    shuttle::check_pct(play_behind_a_stream, iterations, 3);
}
