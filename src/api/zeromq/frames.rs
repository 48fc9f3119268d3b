//! ZMTP 3 frames (RFC 23) as they pass a gate: what a peer may send is bounded here, byte by byte,
//! before the library sees it.

/// Length of a ZMTP greeting.
const GREETING: usize = 64;
/// Largest command frame (READY, SUBSCRIBE, ...): none of ours is longer.
const COMMAND_BYTES_MAX: u64 = 4096;
/// Frames of one message: a topic and a message are two.
const MESSAGE_FRAMES_MAX: u32 = 16;
/// Bytes of a message beyond its payload: its topic.
const TOPIC_BYTES_MAX: u64 = 4096;
/// Subscriptions of one peer, and the bytes of each: sessions have two topics each.
const SUBSCRIPTIONS_MAX: usize = 256;
const SUBSCRIPTION_BYTES_MAX: u64 = 256;

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;

/// Which way messages go through a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In, from rigs.
    In,
    /// Out, to subscribers, who send what they subscribe to.
    Out,
}

/// Reads frames in a stream of bytes as they pass.
#[derive(Debug)]
pub struct Frames {
    message_bytes_max: u64,
    side: Side,
    state: State,
    /// The peer has sent READY.
    ready: bool,
    /// Frames, and bytes they claim, of the message that is coming.
    message: (u32, u64),
    /// Messages started.
    begun: u64,
    /// The current frame with its head, where it is inspected.
    frame: Vec<u8>,
    /// Topics, each with how often it is subscribed to.
    subscriptions: Vec<(Vec<u8>, u32)>,
    seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting { seen: usize },
    Flags,
    Length { flags: u8, left: u8, length: u64 },
    Body { flags: u8, left: u64 },
}

impl Frames {
    /// A connection of which nothing was seen yet.
    pub fn new(message_bytes_max: usize, side: Side) -> Self {
        Self {
            message_bytes_max: message_bytes_max as u64,
            side,
            state: State::Greeting { seen: 0 },
            ready: false,
            message: (0, 0),
            begun: 0,
            frame: Vec::new(),
            subscriptions: Vec::new(),
            seen: 0,
        }
    }

    /// The handshake is complete.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether a connection on which nothing comes carries nothing at all: a rig's does, and that
    /// of a subscriber without a subscription.
    pub(crate) fn is_silent(&self) -> bool {
        self.side == Side::In || self.subscriptions.is_empty()
    }

    /// Frames received.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Frames beyond `free`, which are dealt with.
    pub(crate) fn take_seen(&mut self, free: u64) -> u64 {
        let beyond = self.seen.saturating_sub(free);
        self.seen = self.seen.min(free);
        beyond
    }

    /// Number and claim of the message that is not whole.
    pub(crate) fn incomplete(&self) -> Option<(u64, usize)> {
        let between = self.state == State::Flags && self.message.0 == 0;
        if between || matches!(self.state, State::Greeting { .. }) {
            return None;
        }
        Some((self.begun, usize::try_from(self.message.1).unwrap_or(usize::MAX)))
    }

    /// Subscribers' frames are inspected whole; messages of rigs pass as they come.
    fn is_kept(&self, flags: u8) -> bool {
        self.side == Side::Out || flags & COMMAND != 0
    }

    /// Takes the next bytes; what may pass is added to `pass`.
    pub fn pass(&mut self, mut bytes: &[u8], pass: &mut Vec<u8>) -> Result<(), &'static str> {
        while let Some(&byte) = bytes.first() {
            let mut used = 1;
            match self.state {
                State::Greeting { seen } => self.greeting(seen, byte, pass)?,
                State::Flags => self.flags(byte, pass)?,
                State::Length { flags, left, length } => {
                    self.keep(flags, &[byte], pass);
                    // No more than eight bytes are ever shifted in.
                    let length = length << 8 | u64::from(byte);
                    if left > 1 {
                        self.state = State::Length { flags, left: left - 1, length };
                    } else {
                        self.begin_frame(flags, length)?;
                        self.state = State::Body { flags, left: length };
                        if length == 0 {
                            self.end_frame(flags, pass)?;
                        }
                    }
                }
                State::Body { flags, left } => {
                    used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.keep(flags, &bytes[..used], pass);
                    let left = left - used as u64;
                    self.state = State::Body { flags, left };
                    if left == 0 {
                        self.end_frame(flags, pass)?;
                    }
                }
            }
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// A byte of the greeting: the signature's ends and the version are checked.
    fn greeting(&mut self, seen: usize, byte: u8, pass: &mut Vec<u8>) -> Result<(), &'static str> {
        let expected = match seen {
            0 => Some(0xff),
            9 => Some(0x7f),
            _ => None,
        };
        if expected.is_some_and(|e| e != byte) || (seen == 10 && byte < 3) {
            return Err("not_zmtp_3");
        }
        pass.push(byte);
        self.state = match seen + 1 {
            GREETING => State::Flags,
            seen => State::Greeting { seen },
        };
        Ok(())
    }

    /// A frame's first byte.
    fn flags(&mut self, byte: u8, pass: &mut Vec<u8>) -> Result<(), &'static str> {
        // A command has no more parts.
        let command = byte & COMMAND != 0;
        if byte & !(MORE | LONG | COMMAND) != 0
            || (command && byte & MORE != 0)
            || (command && self.message.0 > 0)
        {
            return Err("bad_frame");
        }
        if self.message.0 == 0 {
            self.begun += 1;
        }
        self.frame.clear();
        self.keep(byte, &[byte], pass);
        let left = if byte & LONG == 0 { 1 } else { 8 };
        self.state = State::Length { flags: byte, left, length: 0 };
        Ok(())
    }

    fn keep(&mut self, flags: u8, bytes: &[u8], pass: &mut Vec<u8>) {
        if self.is_kept(flags) {
            self.frame.extend_from_slice(bytes);
        } else {
            pass.extend_from_slice(bytes);
        }
    }

    /// A frame claims `length` bytes.
    fn begin_frame(&mut self, flags: u8, length: u64) -> Result<(), &'static str> {
        let (frames, bytes) = self.message;
        self.message = (frames + 1, bytes.saturating_add(length));
        if flags & COMMAND != 0 {
            return if length > COMMAND_BYTES_MAX { Err("oversized_frame") } else { Ok(()) };
        }
        match self.side {
            Side::Out if length > SUBSCRIPTION_BYTES_MAX + 1 => Err("oversized_frame"),
            Side::In if length > self.message_bytes_max => Err("oversized_frame"),
            Side::In if self.message.1 > self.message_bytes_max + TOPIC_BYTES_MAX => {
                Err("oversized_message")
            }
            _ if self.message.0 > MESSAGE_FRAMES_MAX => Err("too_many_frames"),
            // Who it is comes first.
            _ if !self.ready => Err("bad_frame"),
            _ => Ok(()),
        }
    }

    /// A frame is whole.
    fn end_frame(&mut self, flags: u8, pass: &mut Vec<u8>) -> Result<(), &'static str> {
        self.seen += 1;
        let passes = if flags & COMMAND != 0 {
            self.command(flags)?
        } else if self.side == Side::Out {
            self.subscription(flags)?
        } else {
            false
        };
        if passes {
            pass.extend_from_slice(&self.frame);
        }
        if flags & MORE == 0 {
            self.message = (0, 0);
        }
        self.state = State::Flags;
        Ok(())
    }

    fn body(&self, flags: u8) -> &[u8] {
        &self.frame[if flags & LONG == 0 { 2 } else { 9 }..]
    }

    fn command(&mut self, flags: u8) -> Result<bool, &'static str> {
        let body = self.body(flags);
        let (name, rest) = named(body).ok_or("bad_frame")?;
        match name {
            b"READY" => {
                // A peer that takes another's name would take its place in the library as well.
                if identity(rest).ok_or("bad_frame")? {
                    return Err("identity");
                }
                self.ready = true;
                Ok(true)
            }
            // ZMTP 3.1 sends as commands what 3.0 sends as messages.
            b"SUBSCRIBE" if self.side == Side::Out => {
                let topic = rest.to_vec();
                self.subscribe(topic)
            }
            b"CANCEL" if self.side == Side::Out => {
                let topic = rest.to_vec();
                Ok(self.cancel(&topic))
            }
            _ => Ok(true),
        }
    }

    /// A message of a subscriber: 1 or 0, and a topic.
    fn subscription(&mut self, flags: u8) -> Result<bool, &'static str> {
        if flags & MORE != 0 || self.message.0 > 1 {
            return Err("bad_frame");
        }
        let body = self.body(flags);
        match body.split_first() {
            Some((1, topic)) => {
                let topic = topic.to_vec();
                self.subscribe(topic)
            }
            Some((0, topic)) => {
                let topic = topic.to_vec();
                Ok(self.cancel(&topic))
            }
            // Of no meaning to a publisher.
            _ => Ok(false),
        }
    }

    /// True for a new topic: the library would store a topic as often as it is sent.
    fn subscribe(&mut self, topic: Vec<u8>) -> Result<bool, &'static str> {
        if let Some((_, times)) = self.subscriptions.iter_mut().find(|(t, _)| *t == topic) {
            *times = times.saturating_add(1);
            return Ok(false);
        }
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX
            || topic.len() as u64 > SUBSCRIPTION_BYTES_MAX
        {
            return Err("too_many_subscriptions");
        }
        self.subscriptions.push((topic, 1));
        Ok(true)
    }

    /// True where it was the last of its topic.
    fn cancel(&mut self, topic: &[u8]) -> bool {
        let Some(at) = self.subscriptions.iter().position(|(t, _)| t == topic) else {
            return false;
        };
        self.subscriptions[at].1 -= 1;
        let last = self.subscriptions[at].1 == 0;
        if last {
            self.subscriptions.swap_remove(at);
        }
        last
    }
}

/// A name behind its length, and what follows.
fn named(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// Whether READY's properties claim an identity; `None` where they are no properties.
fn identity(mut properties: &[u8]) -> Option<bool> {
    let mut claimed = false;
    while !properties.is_empty() {
        let (name, rest) = named(properties)?;
        let (length, rest) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        claimed |= name.eq_ignore_ascii_case(b"Identity") && !value.is_empty();
        properties = rest;
    }
    Some(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> Vec<u8> {
        let mut g = vec![0u8; GREETING];
        g[0] = 0xff;
        g[9] = 0x7f;
        g[10] = 3;
        g
    }

    fn ready(properties: &[u8]) -> Vec<u8> {
        let mut g = greeting();
        g.extend([COMMAND, (6 + properties.len()) as u8, 5]);
        g.extend(b"READY");
        g.extend(properties);
        g
    }

    fn of(side: Side, stream: &[u8], cut: usize) -> (Frames, Result<Vec<u8>, &'static str>) {
        let (mut frames, mut pass) = (Frames::new(256, side), Vec::new());
        let result = stream.chunks(cut).try_for_each(|part| frames.pass(part, &mut pass));
        (frames, result.map(|()| pass))
    }

    #[test]
    fn messages_pass_as_they_come_and_oversized_ones_do_not() {
        let mut stream = ready(b"\x0bSocket-Type\0\0\0\x04PUSH");
        stream.extend([0, 0]); // an empty frame
        stream.extend([MORE, 1, 7, LONG, 0, 0, 0, 0, 0, 0, 1, 0]); // a topic, and 256 bytes
        stream.extend(vec![7; 256]);
        for cut in [1, 3, 64, stream.len()] {
            let (mut frames, passed) = of(Side::In, &stream, cut);
            assert_eq!(passed, Ok(stream.clone()));
            assert!(frames.is_ready() && frames.incomplete().is_none());
            let mut pass = Vec::new();
            frames.pass(&[LONG, 0, 0, 0, 0, 0, 0, 0, 200, 1], &mut pass).expect("passes");
            assert_eq!(frames.incomplete(), Some((4, 200)));
            frames.pass(&[1; 199], &mut pass).expect("passes");
            assert_eq!(frames.incomplete(), None);
            let huge = [LONG, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
            assert_eq!(frames.pass(&huge, &mut pass), Err("oversized_frame"));
        }
        assert_eq!(of(Side::In, b"GET / HTTP/1.1", 9).1, Err("not_zmtp_3"));
        let mut early = greeting();
        early.extend([0, 1, 1]);
        assert_eq!(of(Side::In, &early, 9).1, Err("bad_frame"), "who it is comes first");
    }

    #[test]
    fn a_message_without_an_end_is_cut() {
        let mut stream = ready(b"");
        stream.extend([MORE, 0].repeat(100));
        assert_eq!(of(Side::In, &stream, 5).1, Err("too_many_frames"));
        let mut stream = ready(b"");
        for _ in 0..30 {
            stream.extend([MORE, 250]);
            stream.extend([1; 250]);
        }
        let most = Frames { message_bytes_max: 1000, ..Frames::new(0, Side::In) };
        let mut most = most;
        assert_eq!(most.pass(&stream, &mut Vec::new()), Err("too_many_frames"));
        let mut most = Frames::new(256, Side::In);
        most.message = (1, 256 + TOPIC_BYTES_MAX - 10);
        assert_eq!(most.begin_frame(0, 11), Err("oversized_message"));
    }

    #[test]
    fn subscriptions_are_bounded_and_told_once() {
        let subscription = |what: u8, topic: &[u8]| {
            let mut frame = vec![0, topic.len() as u8 + 1, what];
            frame.extend(topic);
            frame
        };
        let head = ready(b"");
        let once = |bytes: &[Vec<u8>]| [head.clone(), bytes.concat()].concat();
        let (a, b) = (subscription(1, b"rig/event"), subscription(1, b"rig/decision"));
        let stream = once(&[a.clone(), a.clone(), b.clone(), subscription(0, b"rig/event")]);
        assert_eq!(of(Side::Out, &stream, 7).1, Ok(once(&[a.clone(), b.clone()])));
        let last = subscription(0, b"rig/event");
        let stream = once(&[a.clone(), last.clone(), last.clone(), a.clone()]);
        let (frames, passed) = of(Side::Out, &stream, 7);
        assert_eq!(passed, Ok(once(&[a.clone(), last, a])));
        assert!(!frames.is_silent());
        let many: Vec<_> = (0..300u32).map(|i| subscription(1, &i.to_be_bytes())).collect();
        assert_eq!(of(Side::Out, &once(&many), 64).1, Err("too_many_subscriptions"));
        // As ZMTP 3.1 has it.
        let mut command = head.clone();
        command.extend([COMMAND, 13, 9]);
        command.extend(b"SUBSCRIBErig");
        assert_eq!(of(Side::Out, &command, 3).1, Ok(command.clone()));
        let mut parts = head;
        parts.extend([MORE, 2, 1, 7]);
        assert_eq!(of(Side::Out, &parts, 3).1, Err("bad_frame"));
    }

    #[test]
    fn nobody_takes_another_s_name() {
        assert!(of(Side::Out, &ready(b"\x08Identity\0\0\0\0"), 5).1.is_ok());
        assert_eq!(of(Side::Out, &ready(b"\x08identity\0\0\0\x01x"), 5).1, Err("identity"));
        assert_eq!(of(Side::Out, &ready(b"\x08identity\0\0\0\x02x"), 5).1, Err("bad_frame"));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_judged_alike(
            tail in proptest::collection::vec(any::<u8>(), 0..600),
            cut in 1usize..70,
            out in any::<bool>(),
        ) {
            let side = if out { Side::Out } else { Side::In };
            let mut stream = ready(b"");
            stream.extend(tail);
            let (_, whole) = of(side, &stream, stream.len());
            let (frames, pieces) = of(side, &stream, cut);
            prop_assert_eq!(whole, pieces);
            prop_assert!(frames.frame.len() as u64 <= COMMAND_BYTES_MAX + 9);
            prop_assert!(frames.subscriptions.len() <= SUBSCRIPTIONS_MAX);
        }
    }
}
