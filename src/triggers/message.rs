//! What a trigger says where no text of its own is configured: one JSON object.

use std::fmt::Write;

use super::firing::Firing;

/// What stays the same in a trigger's messages, already in JSON.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// `{"session":...,"trigger":...,"regime":...,`.
    head: String,
}

/// Room for a message's numbers.
const NUMBERS: usize = 256;

impl Message {
    pub(super) fn new(session: &str, trigger: &str, regime: &str) -> Self {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (session, trigger, regime) = (quoted(session), quoted(trigger), quoted(regime));
        Self { head: format!("{{\"session\":{session},\"trigger\":{trigger},\"regime\":{regime},") }
    }

    /// A text with room for any message.
    pub(super) fn buffer(&self) -> String {
        String::with_capacity(self.head.len() + NUMBERS)
    }

    /// Writes it into such a text; nothing is allocated.
    pub(super) fn write(&self, firing: &Firing, to: &mut String) {
        to.clear();
        to.push_str(&self.head);
        let Firing { bin, sequence, rig_time_ns, decided_wall_ns, probability, .. } = firing;
        // Fails for want of memory alone, and there is room.
        let _ = write!(
            to,
            "\"bin\":{bin},\"sequence\":{sequence},\"rig_time_ns\":{rig_time_ns},\
             \"decision_time_ns\":{decided_wall_ns},\"probability\":{probability}}}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::triggers::firing::Fate;

    #[test]
    fn it_is_json_and_the_longest_fits_the_room() {
        let message = Message::new("rig", "a\"b", "ring");
        let mut text = message.buffer();
        let room = text.capacity();
        let longest = Firing {
            fate: Fate::Due,
            bin: u64::MAX,
            sequence: u64::MAX,
            rig_time_ns: i64::MIN,
            decided: Instant::now(),
            decided_wall_ns: i64::MIN,
            probability: 1.175_494_4e-38,
        };
        message.write(&longest, &mut text);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (value["trigger"].as_str(), value["bin"].as_u64()),
            (Some("a\"b"), Some(u64::MAX))
        );
        assert_eq!(text.capacity(), room);
    }
}
