//! One line of totals a day, for operators who want numbers and no monitoring.
//!
//! ```text
//! from,to,connections,…                       header
//! 2026-03-01T07:30Z,2026-03-02T00:00Z,412,…   what happened in between, then what is there at the end
//! ```
//!
//! A line ends at midnight (UTC), and when the relay stops.

use core::time::Duration;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::metrics::Stats;

const DAY: Duration = Duration::from_secs(86_400);
const HEADER: &str = "from,to,connections,connections_refused,connections_shed,\
    queues_created,queues_deleted,messages_received,messages_acknowledged,messages_expired,\
    blocks_received,blocks_sent,queues,message_bytes\n";

/// The file, and what its last line ended with.
pub(crate) struct Statistics {
    path: PathBuf,
    since: SystemTime,
    before: Stats,
}

impl Statistics {
    /// Begins to count; a new file gets its header.
    pub(crate) fn begin(path: PathBuf, before: Stats, now: SystemTime) -> io::Result<Self> {
        let statistics = Self {
            path,
            since: now,
            before,
        };
        let fresh = statistics
            .path
            .metadata()
            .map_or(true, |file| file.len() == 0);
        statistics.append(if fresh { HEADER } else { "" })?;
        Ok(statistics)
    }

    /// Until the next line is due; for ever if there are no statistics.
    pub(crate) async fn due(statistics: Option<&Self>) {
        match statistics {
            Some(statistics) => {
                let next = midnight_after(statistics.since);
                // The clock may be set meanwhile: look again now and then.
                while let Ok(wait) = next.duration_since(SystemTime::now()) {
                    tokio::time::sleep(wait.min(Duration::from_secs(600))).await;
                }
            }
            None => core::future::pending().await,
        }
    }

    /// Writes what has happened since the last line.
    pub(crate) fn write(&mut self, stats: Stats, now: SystemTime) -> io::Result<()> {
        let line = line(self.since, now, &self.before, &stats);
        self.since = now;
        self.before = stats;
        self.append(&line)
    }

    fn append(&self, text: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        options.open(&self.path)?.write_all(text.as_bytes())
    }
}

fn line(from: SystemTime, to: SystemTime, before: &Stats, after: &Stats) -> String {
    let grown = |count: fn(&Stats) -> u64| count(after).saturating_sub(count(before));
    let numbers = [
        grown(|stats| stats.connections_total),
        grown(|stats| stats.connections_refused),
        grown(|stats| stats.connections_shed),
        grown(|stats| stats.queues_created),
        grown(|stats| stats.queues_deleted),
        grown(|stats| stats.messages_received),
        grown(|stats| stats.messages_acknowledged),
        grown(|stats| stats.messages_expired),
        grown(|stats| stats.blocks_received),
        grown(|stats| stats.blocks_sent),
        u64::try_from(after.queues).unwrap_or(u64::MAX),
        u64::try_from(after.message_bytes).unwrap_or(u64::MAX),
    ];
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    format!("{},{},{}\n", minute(from), minute(to), numbers.join(","))
}

/// To the minute: nobody needs more, and less tells less.
fn minute(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (date, hour, minute) = (time.date(), time.hour(), time.minute());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")
}

fn midnight_after(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let days = since.as_secs() / DAY.as_secs() + 1;
    UNIX_EPOCH + Duration::from_secs(days * DAY.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_772_366_400; // 2026-03-01 12:00:00 UTC

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn lines_hold_what_happened_in_between_and_end_at_midnight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("statistics.csv");
        let mut stats = Stats {
            messages_received: 5,
            ..Stats::default()
        };
        let mut file = Statistics::begin(path.clone(), stats, at(NOON)).unwrap();
        assert_eq!(midnight_after(file.since), at(NOON + 12 * 3_600));
        stats.messages_received = 12;
        stats.queues = 3;
        file.write(stats, at(NOON + 12 * 3_600)).unwrap();
        assert_eq!(midnight_after(file.since), at(NOON + 36 * 3_600));
        file.write(stats, at(NOON + 13 * 3_600)).unwrap();
        // Another start goes on in the same file.
        Statistics::begin(path.clone(), stats, at(NOON)).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
        assert_eq!(
            lines[1],
            "2026-03-01T12:00Z,2026-03-02T00:00Z,0,0,0,0,0,7,0,0,0,0,3,0"
        );
        assert_eq!(
            lines[2],
            "2026-03-02T00:00Z,2026-03-02T01:00Z,0,0,0,0,0,0,0,0,0,0,3,0"
        );
    }
}
