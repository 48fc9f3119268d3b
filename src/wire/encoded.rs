//! Messages that many subscribers are sent: encoded once, and shared by all of them.

use std::ops::Deref;
use std::sync::OnceLock;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message, encoding};

use super::Decision;

/// A message, and its encoding once a subscriber has asked for it. Without subscribers nothing is
/// encoded.
#[derive(Debug)]
pub struct Encoded<M> {
    message: M,
    /// Filled by the first subscriber that asks; concurrent ones wait for it instead of encoding
    /// again.
    bytes: OnceLock<Bytes>,
}

impl<M: Message> Encoded<M> {
    /// A message that is encoded when its bytes are first asked for.
    pub fn new(message: M) -> Self {
        Self { message, bytes: OnceLock::new() }
    }

    /// The encoded message. The first caller encodes it; the others share its bytes.
    pub fn bytes(&self) -> Bytes {
        self.bytes.get_or_init(|| self.message.encode_to_vec().into()).clone()
    }
}

impl<M> Deref for Encoded<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

/// Field numbers of `DecisionUpdate`.
const DECISION: u32 = 1;
const LOST: u32 = 2;

/// `regimed.v1.DecisionUpdate`, written by hand: a sent one holds the decision's shared bytes, a
/// received one the decision. Both are the message of `proto/` on the wire.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DecisionUpdate {
    /// The decision, where it was received.
    pub decision: Option<Decision>,
    /// The decision on the wire, where it is to be sent.
    encoded: Option<Bytes>,
    /// Updates that this subscriber has lost so far by being slow.
    pub lost: u64,
}

impl DecisionUpdate {
    /// To be sent, of a decision that is on the wire as `decision`.
    pub fn shared(decision: Bytes, lost: u64) -> Self {
        Self { decision: None, encoded: Some(decision), lost }
    }
}

impl Message for DecisionUpdate {
    fn encode_raw(&self, to: &mut impl BufMut) {
        if let Some(bytes) = &self.encoded {
            encoding::bytes::encode(DECISION, bytes, to);
        } else if let Some(decision) = &self.decision {
            encoding::message::encode(DECISION, decision, to);
        }
        if self.lost != 0 {
            encoding::uint64::encode(LOST, &self.lost, to);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            DECISION => {
                let decision = self.decision.get_or_insert_default();
                encoding::message::merge(wire_type, decision, from, context)
            }
            LOST => encoding::uint64::merge(wire_type, &mut self.lost, from, context),
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let decision = match (&self.encoded, &self.decision) {
            (Some(bytes), _) => encoding::bytes::encoded_len(DECISION, bytes),
            (None, Some(decision)) => encoding::message::encoded_len(DECISION, decision),
            (None, None) => 0,
        };
        let lost = self.lost != 0;
        decision + if lost { encoding::uint64::encoded_len(LOST, &self.lost) } else { 0 }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_are_the_message_on_the_wire() {
        let decision = Decision {
            session: "rig".into(),
            bin: 7,
            posterior: vec![0.25, 0.75],
            ..Decision::default()
        };
        let encoded = Encoded::new(decision.clone());
        for lost in [0, 300] {
            let sent = DecisionUpdate::shared(encoded.bytes(), lost).encode_to_vec();
            let plain = DecisionUpdate { decision: Some(decision.clone()), lost, encoded: None };
            assert_eq!(sent, plain.encode_to_vec());
            assert_eq!(sent.len(), plain.encoded_len());
            assert_eq!(DecisionUpdate::decode(sent.as_slice()), Ok(plain));
        }
        // A field of a later version is passed over.
        let later = [0x1a, 1, 5, 0x10, 9];
        let found = DecisionUpdate::decode(later.as_slice()).expect("decoded");
        assert_eq!(found, DecisionUpdate { lost: 9, ..DecisionUpdate::default() });
        assert_eq!(encoded.bytes().as_ptr(), encoded.bytes().as_ptr(), "one buffer for all");
    }
}
