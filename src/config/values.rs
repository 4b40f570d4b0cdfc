//! Value types of pipeline files that TOML has not: `auto`, sizes in bytes, one value or a list of them.

use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A setting that is given, or left for the program to choose (`"auto"`).
///
/// On resume an `auto` takes the value recorded in the output, so that the bytes stay the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    #[default]
    Auto,
    Value(T),
}

impl<T: Copy> Auto<T> {
    /// The given value, else the recorded one, else what `choose` says.
    pub fn resolve(self, recorded: Option<T>, choose: impl FnOnce() -> T) -> T {
        match self {
            Auto::Value(value) => value,
            Auto::Auto => recorded.unwrap_or_else(choose),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Auto::Auto => serializer.serialize_str("auto"),
            Auto::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for AutoVisitor<T> {
            type Value = Auto<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "auto" => Ok(Auto::Auto),
                    _ => T::deserialize(text.into_deserializer()).map(Auto::Value),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                T::deserialize(number.into_deserializer()).map(Auto::Value)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                T::deserialize(number.into_deserializer()).map(Auto::Value)
            }
        }

        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}

/// A size in bytes: a number, or text with a unit (`"512 MiB"`, `"2 GB"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];

    fn parse(text: &str) -> Option<ByteSize> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let factor = match text[digits..].trim() {
            "" | "B" => 1,
            unit => Self::UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        number.checked_mul(factor).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that keeps the number at one or more, to one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS[..4].iter().rev().find(|(_, factor)| self.0 >= *factor);
        match unit {
            Some((name, factor)) => write!(f, "{:.1} {name}", self.0 as f64 / *factor as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in bytes: a number, or text such as \"512 MiB\" or \"2 GB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                let size = u64::try_from(number);
                size.map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A setting that may differ per scale: one value for all scales, or a list from scale 1 up. Empty: left out.
#[derive(Clone, Debug, PartialEq)]
pub struct PerScale<T>(pub Vec<T>);

impl<T> PerScale<T> {
    /// Whether it was left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for PerScale<T> {
    fn default() -> Self {
        PerScale(Vec::new())
    }
}

impl<T: Serialize> Serialize for PerScale<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            list => list.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerScale<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor {
            expected: "a number, or a list of numbers from scale 1 up",
            text: |_| None,
            list: PerScale,
        })
    }
}

/// Which classes rows are drawn of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelChoice {
    /// All classes where the chain has classes, else nothing.
    #[default]
    Auto,
    /// All classes in turn.
    All,
    /// No condition.
    None,
    /// These, in turn.
    List(Vec<u32>),
}

impl Serialize for LabelChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LabelChoice::Auto => serializer.serialize_str("auto"),
            LabelChoice::All => serializer.serialize_str("all"),
            LabelChoice::None => serializer.serialize_str("none"),
            LabelChoice::List(classes) => classes.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LabelChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor {
            expected: "\"all\", \"none\", \"auto\", a class or a list of classes",
            text: |text| match text {
                "auto" => Some(LabelChoice::Auto),
                "all" => Some(LabelChoice::All),
                "none" => Some(LabelChoice::None),
                _ => None,
            },
            list: LabelChoice::List,
        })
    }
}

/// Reads one value as a list of one; `text` reads the words that are allowed besides.
struct ListVisitor<T, V> {
    expected: &'static str,
    text: fn(&str) -> Option<V>,
    list: fn(Vec<T>) -> V,
}

impl<T, V> ListVisitor<T, V> {
    fn one<'de, E: de::Error, D: IntoDeserializer<'de, E>>(self, value: D) -> Result<V, E>
    where
        T: Deserialize<'de>,
    {
        T::deserialize(value.into_deserializer()).map(|value| (self.list)(vec![value]))
    }
}

impl<'de, T: Deserialize<'de>, V> Visitor<'de> for ListVisitor<T, V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<V, E> {
        self.one(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<V, E> {
        self.one(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<V, E> {
        self.one(number)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<V, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        match list.is_empty() {
            true => Err(de::Error::invalid_length(0, &self)),
            false => Ok((self.list)(list)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_units() {
        assert_eq!(ByteSize::parse("512"), Some(ByteSize(512)));
        assert_eq!(ByteSize::parse("512 MiB"), Some(ByteSize(512 << 20)));
        assert_eq!(ByteSize::parse("2GB"), Some(ByteSize(2_000_000_000)));
        assert_eq!(ByteSize::parse("2 gigs"), None);
        assert_eq!(ByteSize::parse(""), None);
        assert_eq!(ByteSize::parse("99999999999 TiB"), None);
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(12).to_string(), "12 B");
    }

    #[test]
    fn one_value_or_a_list_of_them() {
        #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        struct Keys {
            #[serde(skip_serializing_if = "PerScale::is_empty")]
            t: PerScale<f32>,
            #[serde(skip_serializing_if = "PerScale::is_empty")]
            k: PerScale<u32>,
            labels: LabelChoice,
        }
        let read = |text: &str| toml::from_str::<Keys>(text).map_err(|error| error.message().to_owned());
        let keys = read("t = [1, 0.5]\nk = 7\nlabels = [3, 4]").unwrap();
        assert_eq!((keys.t.0.as_slice(), keys.k.0.as_slice()), (&[1.0, 0.5][..], &[7][..]));
        assert_eq!(keys.labels, LabelChoice::List(vec![3, 4]));
        assert_eq!(read(&toml::to_string(&keys).unwrap()), Ok(keys));
        assert_eq!(read("labels = \"all\"").unwrap(), Keys { labels: LabelChoice::All, ..Keys::default() });
        assert_eq!(read("labels = 9").unwrap().labels, LabelChoice::List(vec![9]));
        assert!(read("k = -1").unwrap_err().contains("invalid value: integer `-1`, expected u32"));
        assert!(read("k = 1.5").unwrap_err().contains("expected u32"));
        assert!(read("t = \"hot\"").unwrap_err().contains("a number, or a list of numbers from scale 1 up"));
        assert!(read("t = []").unwrap_err().contains("a number, or a list"));
        assert!(read("labels = \"some\"").unwrap_err().contains("a class or a list of classes"));
    }

    #[test]
    fn auto_prefers_given_then_recorded() {
        assert_eq!(Auto::Value(1).resolve(Some(2), || 3), 1);
        assert_eq!(Auto::Auto.resolve(Some(2), || 3), 2);
        assert_eq!(Auto::Auto.resolve(None, || 3), 3);
    }
}
