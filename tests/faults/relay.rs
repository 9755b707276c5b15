//! A link between two machines that loses, doubles, delays and so reorders packets, or carries none at all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What happens to packets, either way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lost_percent: u64,
    pub doubled_percent: u64,
    /// Each packet waits for a time of its own below this, so later ones pass it.
    pub delay_max: Duration,
    /// Nothing passes at all.
    pub cut: bool,
}

/// What has been done to packets.
#[derive(Debug, Default)]
pub struct Damage {
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub doubled: AtomicU64,
    pub overtaken: AtomicU64,
}

/// A link while it is there.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    weather: Mutex<Weather>,
    damage: Damage,
    done: AtomicBool,
}

impl Relay {
    /// Carries packets between two TUN devices, which do not block.
    pub fn new(one: File, other: File) -> Self {
        let shared = Arc::new(Shared::default());
        let (one, other) = (Arc::new(one), Arc::new(other));
        let ways = [(one.clone(), other.clone(), 1), (other, one, 2)];
        let threads = ways.map(|(from, to, seed)| {
            let shared = shared.clone();
            std::thread::spawn(move || Way { from, to, shared, random: seed, numbers: 0 }.carry())
        });
        Self { shared, threads: threads.into() }
    }

    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
    }

    pub fn damage(&self) -> &Damage {
        &self.shared.damage
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One direction of a link.
struct Way {
    from: Arc<File>,
    to: Arc<File>,
    shared: Arc<Shared>,
    random: u64,
    numbers: u64,
}

impl Way {
    fn carry(mut self) {
        let mut under_way = BinaryHeap::new();
        let mut last = 0;
        while !self.shared.done.load(Ordering::Relaxed) {
            let weather = *self.shared.weather.lock().unwrap();
            let mut buffer = [0; 0x1_0000];
            while let Ok(size @ 1..) = (&*self.from).read(&mut buffer) {
                for due in self.fates(weather) {
                    self.numbers += 1;
                    under_way.push(Reverse((due, self.numbers, buffer[..size].to_vec())));
                }
            }
            while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
                let Some(Reverse((_, number, packet))) = under_way.pop() else { break };
                if number < last {
                    self.shared.damage.overtaken.fetch_add(1, Ordering::Relaxed);
                }
                last = last.max(number);
                // A full queue loses the packet, as queues do.
                let _ = (&*self.to).write(&packet);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// When the next packet arrives: never, once or twice.
    fn fates(&mut self, weather: Weather) -> Vec<Instant> {
        let damage = Arc::clone(&self.shared);
        let damage = &damage.damage;
        if weather.cut || self.percent() < weather.lost_percent {
            damage.lost.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        let twice = self.percent() < weather.doubled_percent;
        damage.carried.fetch_add(1, Ordering::Relaxed);
        damage.doubled.fetch_add(u64::from(twice), Ordering::Relaxed);
        let now = Instant::now();
        (0..=u8::from(twice)).map(|_| now + weather.delay_max * u32::try_from(self.percent()).unwrap() / 100).collect()
    }

    /// 0 to 99, the same series in each run.
    fn percent(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % 100
    }
}
