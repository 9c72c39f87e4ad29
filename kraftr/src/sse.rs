//! Reads a stream of server-sent events, as the WHATWG HTML standard (section 9.2.6) defines them.

/// Bytes of one event; a server that sends more is not ours.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The last id that the stream named so far; what `Last-Event-ID` takes.
    pub id: String,
    /// Its name; `message` when it has none.
    pub name: String,
    /// Its data, lines joined by line feeds.
    pub data: String,
}

/// The stream is not one of server-sent events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// No end of the event within the bound.
    #[error("an event of the stream is longer than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    /// The stream must be UTF-8.
    #[error("the event stream is not UTF-8")]
    NotUtf8,
}

/// Turns chunks of bytes, cut anywhere, into events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_return: bool,
    id: String,
    name: String,
    data: String,
}

impl Parser {
    /// The events that `chunk` completes.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        for &byte in chunk {
            // A line ends with CR, LF or CR LF: the LF after a CR ends nothing.
            let second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => events.extend(self.end_of_line()?),
                _ if self.line.len() + self.data.len() >= EVENT_BYTES_MAX => return Err(SseError::TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Result<Option<Event>, SseError> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| SseError::NotUtf8)?;
        if line.is_empty() {
            return Ok(self.end_of_event());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // Comments (an empty field name) keep the connection open; unknown fields are to be ignored.
            _ => {}
        }
        Ok(None)
    }

    fn end_of_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { id: self.id.clone(), name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, name: &str, data: &str) -> Event {
        Event { id: id.into(), name: name.into(), data: data.into() }
    }

    fn check(stream: &str, expect: &[Event]) {
        for size in [1, 2, 3, 7, stream.len().max(1)] {
            let mut parser = Parser::default();
            let events: Vec<Event> =
                stream.as_bytes().chunks(size).flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(events, expect, "in chunks of {size}");
        }
    }

    #[test]
    fn an_event_has_id_name_and_data() {
        check("id: 7\nevent: step\ndata: {\"step\":1}\n\n", &[event("7", "step", "{\"step\":1}")]);
    }

    #[test]
    fn the_id_stays_and_the_name_does_not() {
        check("id: 7\nevent: a\ndata: x\n\ndata: y\n\n", &[event("7", "a", "x"), event("7", "message", "y")]);
    }

    #[test]
    fn lines_end_in_any_of_three_ways() {
        check("data: a\r\ndata: b\rdata: c\n\r\n", &[event("", "message", "a\nb\nc")]);
    }

    #[test]
    fn comments_unknown_fields_and_events_without_data_are_nothing() {
        check(": keep-alive\n\nretry: 10\nevent: none\n\ndata:x\n\n", &[event("", "message", "x")]);
    }

    #[test]
    fn characters_may_be_cut_by_chunks() {
        check("data: é€\n\n", &[event("", "message", "é€")]);
    }

    #[test]
    fn an_unfinished_event_is_not_one() {
        check("data: x\n", &[]);
    }

    #[test]
    fn endless_lines_and_other_encodings_are_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(SseError::TooLong));
        assert_eq!(Parser::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }
}
