//! Descriptions to token numbers, as CLIP reads them: byte pairs, lower case, a mark at the end of each word.

use std::collections::HashSet;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// The first token of every description.
const START: &str = "<|startoftext|>";
/// The last one.
const END: &str = "<|endoftext|>";
/// Every byte, alone and at the end of a word, and [`START`] and [`END`]: a vocabulary without merges.
pub(crate) const VOCABULARY_MIN: usize = 2 * 256 + 2;
/// What is a word. Source: `CLIPTokenizer` in transformers.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Longest random entry of a vocabulary, with its mark: room for more entries than any network has.
const RANDOM_MAX: usize = 16;

/// Reads descriptions.
pub(crate) struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
}

impl ClipTokenizer {
    /// From the text of a `merges.txt`. The vocabulary follows from it: every byte, every byte at the end of a word,
    /// every merge, then start and end. Descriptions become `length` tokens, cut or filled up with `pad`.
    pub(crate) fn new(merges: &str, pad: &str, length: usize) -> Result<Self, String> {
        let merges = read_merges(merges)?;
        let vocabulary = vocabulary(&merges);
        let number = |token: &str| {
            vocabulary.get(token).copied().ok_or_else(|| format!("{token:?} is not in the vocabulary"))
        };
        let (start, end, pad) = (number(START)?, number(END)?, number(pad)?);
        let tokenizer = build(vocabulary, merges).map_err(|error| error.to_string())?;
        Ok(Self { tokenizer, start, end, pad, length })
    }

    /// Entries of the vocabulary.
    pub(crate) fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// A description as `length` token numbers; what does not fit is left out.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        let mut tokens = vec![self.start];
        tokens.extend(encoding.get_ids().iter().take(self.length - 2));
        tokens.push(self.end);
        tokens.resize(self.length, self.pad);
        Ok(tokens)
    }
}

/// A `merges.txt` of random letters for a vocabulary of so many entries, the same for the same seed.
pub(crate) fn random_merges(vocabulary: usize, seed: u64) -> String {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut pick = |from: &[String]| from[stream.random_range(0..from.len())].clone();
    let letters = || (b'a'..=b'z').map(|letter| char::from(letter).to_string());
    let mut inner: Vec<String> = letters().collect();
    let mut last: Vec<String> = letters().map(|letter| letter + "</w>").collect();
    let mut known: HashSet<String> = inner.iter().chain(&last).cloned().collect();
    let mut text = "#version: 0.2\n".to_owned();
    let all = known.len() + vocabulary.saturating_sub(VOCABULARY_MIN);
    while known.len() < all {
        let ends_word = known.len().is_multiple_of(2);
        let (left, right) = (pick(&inner), pick(if ends_word { &last } else { &inner }));
        let merged = format!("{left}{right}");
        if merged.len() <= RANDOM_MAX && known.insert(merged.clone()) {
            text.extend([&left, " ", &right, "\n"]);
            if ends_word { &mut last } else { &mut inner }.push(merged);
        }
    }
    text
}

fn build(vocabulary: Vocab, merges: Merges) -> tokenizers::Result<Tokenizer> {
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(END.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.add_special_tokens([START, END].map(|token| AddedToken::from(token, true)))?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))?;
    let words = SplitPattern::Regex(WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    Ok(tokenizer)
}

/// Pairs in the order in which they are merged.
fn read_merges(text: &str) -> Result<Merges, String> {
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|(at, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(format!("line {} is not two tokens with a space between", at + 1)),
        })
        .collect()
}

fn vocabulary(merges: &Merges) -> Vocab {
    let single = printable_bytes().map(String::from);
    let at_the_end = printable_bytes().map(|byte| format!("{byte}</w>"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let special = [START, END].into_iter().map(str::to_owned);
    single.chain(at_the_end).chain(merged).chain(special).zip(0..).collect()
}

/// A visible character for each byte, in the order of the vocabulary: bytes that are visible stand for themselves
/// and come first, the others are characters from 256 on.
fn printable_bytes() -> impl Iterator<Item = char> {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (first, then): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(visible);
    let stand_ins = (0..then.len() as u32).filter_map(|n| char::from_u32(256 + n));
    first.into_iter().map(char::from).chain(stand_ins)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MERGES: &str = "#version: 0.2\nt h\nth e</w>\nc a\nca t</w>\n";

    #[test]
    fn a_description_is_framed_and_filled_up() {
        let tokenizer = ClipTokenizer::new(MERGES, "!", 8).unwrap();
        assert_eq!(tokenizer.vocabulary(), 512 + 4 + 2);
        let (the, cat) = (513, 515);
        assert_eq!(tokenizer.encode("The  CAT").unwrap(), [516, the, cat, 517, 0, 0, 0, 0]);
        assert_eq!(tokenizer.encode("").unwrap(), [516, 517, 0, 0, 0, 0, 0, 0]);
        let long = tokenizer.encode(&"cat ".repeat(50)).unwrap();
        assert_eq!(long, [516, cat, cat, cat, cat, cat, cat, 517]);
    }

    #[test]
    fn random_merges_make_the_vocabulary_that_is_asked_for() {
        for size in [VOCABULARY_MIN, VOCABULARY_MIN + 1, 49_408] {
            let merges = random_merges(size, 7);
            let tokenizer = ClipTokenizer::new(&merges, END, 77).unwrap();
            assert_eq!(tokenizer.vocabulary(), size);
            assert_eq!(tokenizer.encode("a red dress").unwrap().len(), 77);
            assert_eq!(merges, random_merges(size, 7));
        }
        assert_ne!(random_merges(600, 7), random_merges(600, 8));
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        let refused = |text, pad| ClipTokenizer::new(text, pad, 77).err().unwrap();
        assert_eq!(
            refused("#version: 0.2\nt h\nthe\n", "!"),
            "line 3 is not two tokens with a space between"
        );
        assert!(refused(MERGES, "<pad>").contains("<pad>"));
    }
}
