//! The JSON header of a message, as the plugin's versions write it.

use std::borrow::Cow;

use serde::Deserialize;
use zeromq::ZmqMessage;

/// Envelope, header and payload.
const FRAMES: std::ops::RangeInclusive<usize> = 2..=3;

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(alias = "message_no")]
    message_num: u64,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    content: Option<&'a serde_json::value::RawValue>,
    spike: Option<&'a serde_json::value::RawValue>,
}

/// Continuous data of one channel.
#[derive(Debug, Deserialize)]
pub(crate) struct Data<'a> {
    #[serde(borrow)]
    pub(crate) stream: Option<Cow<'a, str>>,
    pub(crate) channel_num: i64,
    #[serde(borrow)]
    pub(crate) channel_name: Option<Cow<'a, str>>,
    pub(crate) num_samples: i64,
    pub(crate) sample_num: i64,
    pub(crate) sample_rate: f64,
}

/// A spike; `sample_num` is its peak.
#[derive(Debug, Deserialize)]
pub(crate) struct Spike<'a> {
    #[serde(borrow)]
    pub(crate) stream: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) electrode: Cow<'a, str>,
    pub(crate) sample_num: i64,
    #[serde(default)]
    pub(crate) sorted_id: i64,
}

/// A TTL edge.
#[derive(Debug, Deserialize)]
pub(crate) struct Ttl<'a> {
    #[serde(borrow)]
    pub(crate) stream: Option<Cow<'a, str>>,
    pub(crate) sample_num: i64,
}

/// What a message is.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Data(Data<'a>),
    Spike(Spike<'a>),
    Ttl(Ttl<'a>),
    Other,
}

impl Message<'_> {
    pub(crate) fn stream(&self) -> Option<&str> {
        match self {
            Self::Data(d) => d.stream.as_deref(),
            Self::Spike(s) => s.stream.as_deref(),
            Self::Ttl(t) => t.stream.as_deref(),
            Self::Other => None,
        }
    }
}

/// A message's header.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) number: u64,
    pub(crate) message: Message<'a>,
}

impl<'a> Header<'a> {
    /// Of a multipart message.
    ///
    /// # Errors
    /// What of it is not as the GUI sends it.
    pub(crate) fn of(message: &'a ZmqMessage) -> Result<Self, HeaderError> {
        if !FRAMES.contains(&message.len()) {
            return Err(HeaderError::Frames(message.len()));
        }
        Self::parse(message.get(1).map_or(&[][..], |b| b.as_ref()))
    }

    fn parse(json: &'a [u8]) -> Result<Self, HeaderError> {
        // A C string may have come with its end.
        let json = json.strip_suffix(&[0]).unwrap_or(json);
        let raw: Raw<'a> = serde_json::from_slice(json)?;
        let of = |part: Option<&'a serde_json::value::RawValue>, what: &'static str| {
            part.map(serde_json::value::RawValue::get).ok_or(HeaderError::Absent(what))
        };
        let message = match raw.kind.as_ref() {
            "data" => {
                let data: Data<'a> = serde_json::from_str(of(raw.content, "content")?)?;
                if !(data.sample_rate > 0.0 && data.sample_rate <= 1e6) || data.num_samples < 0 {
                    return Err(HeaderError::SampleRate(data.sample_rate));
                }
                Message::Data(data)
            }
            "spike" => Message::Spike(serde_json::from_str(of(raw.spike, "spike")?)?),
            "event" => Message::Ttl(serde_json::from_str(of(raw.content, "content")?)?),
            _ => Message::Other,
        };
        Ok(Self { number: raw.message_num, message })
    }
}

/// Why a message is none of the GUI's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("expected an envelope, a header and a payload, found {0} frames")]
    Frames(usize),
    #[error("header: {0}")]
    Json(#[from] serde_json::Error),
    #[error("header: expected '{0}', found nothing")]
    Absent(&'static str),
    #[error("header: expected a sample rate in Hz, found {0}")]
    SampleRate(f64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn headers_are_read_as_the_plugin_writes_them() {
        let spike = "{\r\n  \"message_num\": 862,\r\n  \"type\": \"spike\",\r\n  \
                     \"spike\": {\"stream\": \"s\", \
                     \"source_node\": 103, \"electrode\": \"Electrode 1\", \"sample_num\": 50437, \
                     \"num_channels\": 1, \"num_samples\": 40, \"sorted_id\": 2, \"threshold\": \
                     [50.0]}, \
                     \"timestamp\": 1}\0";
        let header = Header::parse(spike.as_bytes()).expect("a header");
        assert_eq!(header.number, 862);
        let Message::Spike(s) = &header.message else { panic!("{header:?}") };
        assert_eq!((s.electrode.as_ref(), s.sample_num, s.sorted_id), ("Electrode 1", 50437, 2));
        assert_eq!(header.message.stream(), Some("s"));
        let data = r#"{"message_num":858,"type":"data","content":{"stream":"example_data",
            "channel_num":0,"channel_name":"CH1","num_samples":300,"sample_num":50400,
            "sample_rate":30000.0},"data_size":1200}"#;
        let header = Header::parse(data.as_bytes()).expect("a header");
        assert!(matches!(header.message, Message::Data(Data { num_samples: 300, .. })));
        let ttl = r#"{"message_no":3,"type":"event",
            "content":{"stream":"s","source_node":101,"type":3,"sample_num":51005}}"#;
        let header = Header::parse(ttl.as_bytes()).expect("a header");
        assert!(matches!(header.message, Message::Ttl(Ttl { sample_num: 51005, .. })));
        for (bad, word) in [
            ("{", "EOF"),
            (r#"{"message_num":1,"type":"spike"}"#, "'spike'"),
            (r#"{"type":"spike"}"#, "message_num"),
            (r#"{"message_num":1,"type":"data","content":{}}"#, "channel_num"),
        ] {
            let error = Header::parse(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&bytes);
        }
    }
}
