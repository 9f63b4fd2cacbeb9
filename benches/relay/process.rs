//! What processes have used, from `/proc`.

use std::collections::HashMap;
use std::fs;

/// A relay's processes: the one that was started and all below it.
#[derive(Clone, Copy)]
pub struct ProcessTree {
    root: u32,
}

/// Bytes in memory, summed over the processes.
#[derive(Clone, Copy, Default)]
pub struct MemoryUsage {
    /// Resident; pages that processes share count for each of them.
    pub resident: u64,
    /// Proportional: shared pages are divided among those who share them.
    pub proportional: u64,
}

impl ProcessTree {
    /// The processes under `root`, itself included.
    pub fn new(root: u32) -> Self {
        Self { root }
    }

    /// User and system time so far in milliseconds, with that of children that have ended.
    pub fn cpu_ms(self) -> u64 {
        let ticks = |pid| read_stat(pid).map_or(0, |stat| stat.ticks);
        self.pids().into_iter().map(ticks).sum::<u64>() * MS_PER_TICK
    }

    /// Memory now.
    pub fn memory(self) -> MemoryUsage {
        let mut memory = MemoryUsage::default();
        for pid in self.pids() {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            memory.resident += parse_kilobytes(&text, "Rss:") * 1024;
            memory.proportional += parse_kilobytes(&text, "Pss:") * 1024;
        }
        memory
    }

    fn pids(self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if let Some(stat) = read_stat(pid) {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        let mut found = vec![self.root];
        let mut place = 0;
        while let Some(pid) = found.get(place) {
            found.extend(children.remove(pid).unwrap_or_default());
            place += 1;
        }
        found
    }
}

struct ProcStat {
    parent: u32,
    ticks: u64,
}

/// proc(5): behind the name in brackets stand the state, the parent and, from the twelfth on, utime, stime, cutime
/// and cstime.
fn read_stat(pid: u32) -> Option<ProcStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(ProcStat { parent: fields.get(1)?.parse().ok()?, ticks })
}

fn parse_kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux since 2.6.
const MS_PER_TICK: u64 = 10;
