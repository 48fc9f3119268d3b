//! A stream's description: the few fields that matter, as XML.

/// Channels of a stream at most.
const CHANNELS_MAX: usize = 1 << 16;

/// Numbers, or text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Four bytes, floating point.
    Float32,
    /// Eight bytes, floating point.
    Double64,
    /// Text of any length.
    Text,
    /// Whole numbers of 1, 2, 4 or 8 bytes.
    Int8,
    /// Two bytes.
    Int16,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
}

impl Format {
    const NAMES: [(&'static str, Self); 7] = [
        ("float32", Self::Float32),
        ("double64", Self::Double64),
        ("string", Self::Text),
        ("int8", Self::Int8),
        ("int16", Self::Int16),
        ("int32", Self::Int32),
        ("int64", Self::Int64),
    ];

    /// Its name in a stream's description.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|n| n.1 == self).map_or("", |n| n.0)
    }

    /// Bytes of a value; 0 for text.
    #[must_use]
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Text => 0,
            Self::Int8 => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::Float32 => 4,
            Self::Int64 | Self::Double64 => 8,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamInfo {
    /// Name in LSL's lookup.
    pub name: String,
    /// Type in LSL's lookup, such as `EEG` or `Markers`.
    pub kind: String,
    /// Number of channels.
    pub channel_count: usize,
    /// Type of the values.
    pub format: Format,
    /// Rate, Hz; 0 where irregular.
    pub nominal_srate: f64,
    pub source_id: String,
    /// This outlet's own id.
    pub uid: String,
    /// LSL session.
    pub session_id: String,
    /// Host name.
    pub hostname: String,
    /// Address from which it answered.
    pub address: std::net::IpAddr,
    /// TCP port of its data.
    pub data_port: u16,
    /// UDP port of its clock.
    pub service_port: u16,
    /// When it was made, its local clock.
    pub created_at: f64,
}

fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn unescaped(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl StreamInfo {
    /// From a description that came from `address`.
    #[must_use]
    pub(crate) fn parse(xml: &str, address: std::net::IpAddr) -> Option<Self> {
        let text = |name: &str| tag(xml, name).map(unescaped);
        let number = |name: &str| tag(xml, name)?.trim().parse::<f64>().ok();
        let port = |name: &str| tag(xml, name)?.trim().parse::<u16>().ok();
        let format = text("channel_format")?;
        Some(Self {
            name: text("name")?,
            kind: text("type").unwrap_or_default(),
            channel_count: tag(xml, "channel_count")?
                .trim()
                .parse()
                .ok()
                .filter(|n| *n <= CHANNELS_MAX)?,
            format: Format::NAMES.iter().find(|n| n.0 == format)?.1,
            nominal_srate: number("nominal_srate")?,
            source_id: text("source_id").unwrap_or_default(),
            uid: text("uid")?,
            session_id: text("session_id").unwrap_or_default(),
            hostname: text("hostname").unwrap_or_default(),
            address: text("v4address").and_then(|a| a.parse().ok()).unwrap_or(address),
            data_port: port("v4data_port")?,
            service_port: port("v4service_port")?,
            created_at: number("created_at").unwrap_or(0.0),
        })
    }

    /// The description; `channels` are labels, for the full one.
    #[must_use]
    pub(crate) fn xml(&self, channels: Option<&[String]>) -> String {
        let desc = match channels {
            None => "<desc />".to_owned(),
            Some(labels) => {
                let one = |l: &String| format!("<channel><label>{}</label></channel>", escaped(l));
                let all: String = labels.iter().map(one).collect();
                format!("<desc><channels>{all}</channels></desc>")
            }
        };
        format!(
            "<?xml version=\"1.0\"?>\n<info>\n\t<name>{}</name>\n\t<type>{}</type>\n\t\
             <channel_count>{}</channel_count>\n\t<channel_format>{}</channel_format>\n\t\
             <source_id>{}</source_id>\n\t<nominal_srate>{}</nominal_srate>\n\t\
             <version>1.1</version>\n\t<created_at>{}</created_at>\n\t<uid>{}</uid>\n\t\
             <session_id>{}</session_id>\n\t<hostname>{}</hostname>\n\t\
             <v4address>{}</v4address>\n\t\
             <v4data_port>{}</v4data_port>\n\t<v4service_port>{}</v4service_port>\n\t\
             <v6address />\n\t<v6data_port>0</v6data_port>\n\t\
             <v6service_port>0</v6service_port>\n\t{desc}\n</info>\n",
            escaped(&self.name),
            escaped(&self.kind),
            self.channel_count,
            self.format.name(),
            escaped(&self.source_id),
            self.nominal_srate,
            self.created_at,
            self.uid,
            escaped(&self.session_id),
            escaped(&self.hostname),
            // Bound to all addresses: the client knows one that works.
            if self.address.is_unspecified() { String::new() } else { self.address.to_string() },
            self.data_port,
            self.service_port,
        )
    }

    /// A field by the name that queries have for it.
    #[must_use]
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        Some(match name {
            "name" => self.name.clone(),
            "type" => self.kind.clone(),
            "source_id" => self.source_id.clone(),
            "uid" => self.uid.clone(),
            "session_id" => self.session_id.clone(),
            "hostname" => self.hostname.clone(),
            "channel_count" => self.channel_count.to_string(),
            "channel_format" => self.format.name().to_owned(),
            "nominal_srate" => self.nominal_srate.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_as_it_is_written() {
        let info = StreamInfo {
            name: "a & <b>".into(),
            kind: "Spikes".into(),
            channel_count: 96,
            format: Format::Int16,
            nominal_srate: 100.0,
            source_id: "rig".into(),
            uid: "1-2".into(),
            session_id: "default".into(),
            hostname: "h".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            data_port: 16572,
            service_port: 16573,
            created_at: 12.5,
        };
        let read = StreamInfo::parse(&info.xml(Some(&["x".into()])), info.address);
        assert_eq!(read.as_ref(), Some(&info));
        for broken in ["", "<info>", "<name>x</name><channel_format>odd</channel_format>"] {
            assert_eq!(StreamInfo::parse(broken, info.address), None);
        }
    }
}
