//! What a caption can say, and what is then true of its picture.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A closed list of words: the enum, its words and the way back.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($variant:ident $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = $word] #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every one, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word, as a caption has it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|one| one.word() == word).ok_or_else(|| {
                    let all: Vec<_> = Self::ALL.iter().map(|one| one.word()).collect();
                    Error::argument($what, format!("one of {}", all.join(", ")), word, "")
                })
            }
        }
    };
}

words! {
    /// A colour that an object or a plain background can be given.
    Colour, "colour":
    Red "red", Orange "orange", Yellow "yellow", Green "green", Blue "blue", Purple "purple",
    Pink "pink",
}

words! {
    /// A drawing style: the family of sprites.
    Style, "style": Flat "flat", ThreeD "3d", Cartoon "cartoon",
}

/// Gives the objects to another macro, so that they are listed once.
macro_rules! objects {
    ($do:ident! $($before:tt)*) => {
        $do! {
            $($before)*
            Apple "apple", Lemon "lemon", Strawberry "strawberry", Cat "cat", Dog "dog", Fox "fox",
            Frog "frog", Rabbit "rabbit", Fish "fish", Octopus "octopus", Butterfly "butterfly",
            Ladybug "ladybug", Flower "flower", Rose "rose", Cactus "cactus", Tree "tree",
            Mushroom "mushroom", House "house", Car "car", Bus "bus", Rocket "rocket", Boat "boat",
            Ball "ball", Guitar "guitar", Key "key", Bell "bell", Diamond "diamond", Crown "crown",
            Star "star", Umbrella "umbrella", Snowman "snowman", Pizza "pizza", Donut "donut",
            Cake "cake",
        }
    };
}
pub(super) use objects;

objects! {
    words!
    /// A thing that a scene can show.
    Object, "object":
}

impl Object {
    /// The word for more than one.
    pub fn plural(self) -> String {
        match self {
            Self::Fish => "fish".into(),
            Self::Cactus => "cacti".into(),
            Self::Snowman => "snowmen".into(),
            Self::Strawberry => "strawberries".into(),
            Self::Butterfly => "butterflies".into(),
            Self::Fox | Self::Octopus | Self::Bus => format!("{}es", self.word()),
            _ => format!("{}s", self.word()),
        }
    }

    /// The hues of OKLCh, in degrees and possibly through 0, that a colour word changes. `None`
    /// for an object that keeps its own colours and never gets a colour word.
    pub(super) fn hues(self) -> Option<(f32, f32)> {
        Some(match self {
            Self::Apple | Self::Strawberry | Self::Ladybug | Self::Rose => (320.0, 75.0),
            Self::Flower => (300.0, 60.0),
            Self::Mushroom => (340.0, 62.0),
            Self::Lemon => (25.0, 115.0),
            Self::Cat | Self::Fox => (15.0, 115.0),
            Self::Crown | Self::Pizza => (40.0, 115.0),
            Self::Donut => (10.0, 110.0),
            Self::Cake => (36.0, 110.0),
            Self::Cactus | Self::Tree => (100.0, 200.0),
            Self::Fish | Self::Diamond => (180.0, 300.0),
            Self::Umbrella => (230.0, 350.0),
            Self::Octopus | Self::Key | Self::Bell | Self::Star => (0.0, 360.0),
            _ => return None,
        })
    }

    /// How much of the differences in lightness stays when it is given a colour. A donut's icing is
    /// so dark that no yellow would be left.
    pub(super) fn contrast(self) -> f32 {
        if self == Self::Donut { 0.4 } else { 0.8 }
    }

    /// Whether a colour word can be said of it.
    pub fn takes_colour(self) -> bool {
        self.hues().is_some()
    }

    /// The plain backgrounds that it would be hard to see on, in its own colours.
    pub(super) fn own_colours(self) -> &'static [Colour] {
        use Colour::*;
        match self {
            Self::Apple | Self::Ladybug | Self::Rose | Self::Mushroom => &[Red],
            Self::Strawberry | Self::Car | Self::Guitar => &[Red, Pink],
            Self::Lemon | Self::Star => &[Yellow],
            Self::Cat | Self::Bus | Self::Key | Self::Bell | Self::Crown | Self::Pizza => {
                &[Yellow, Orange]
            }
            Self::Boat => &[Yellow, Orange, Red],
            Self::Dog | Self::Fox | Self::House | Self::Cake => &[Orange],
            Self::Octopus => &[Orange, Red, Pink],
            Self::Butterfly => &[Orange, Blue],
            Self::Frog => &[Green, Yellow],
            Self::Cactus | Self::Tree => &[Green],
            Self::Fish | Self::Diamond | Self::Ball => &[Blue],
            Self::Umbrella => &[Purple, Blue],
            Self::Flower => &[Pink],
            Self::Rabbit | Self::Rocket | Self::Snowman | Self::Donut => &[],
        }
    }

    /// Whether it is as often drawn the other way round.
    pub(super) fn turns(self) -> bool {
        matches!(self, Self::Fish | Self::Car | Self::Bus | Self::Boat | Self::House)
    }
}

/// Where the scene is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// White, which is also what a caption without a background means.
    White,
    /// On the grass.
    Grass,
    /// On the beach.
    Beach,
    /// At night.
    Night,
    /// At sunset.
    Sunset,
    /// In the snow.
    Snow,
    /// On the sea.
    Sea,
    /// One plain colour.
    Plain(Colour),
}

impl Background {
    /// The six landscapes.
    pub const LANDSCAPES: [Self; 6] =
        [Self::Grass, Self::Beach, Self::Night, Self::Sunset, Self::Snow, Self::Sea];

    /// Every background: white, the landscapes, the plain colours.
    pub fn all() -> Vec<Self> {
        let plain = Colour::ALL.iter().map(|&colour| Self::Plain(colour));
        [Self::White].into_iter().chain(Self::LANDSCAPES).chain(plain).collect()
    }

    /// The phrase, as a caption has it.
    pub fn phrase(self) -> String {
        match self {
            Self::White => "on a white background".into(),
            Self::Grass => "on the grass".into(),
            Self::Beach => "on the beach".into(),
            Self::Night => "at night".into(),
            Self::Sunset => "at sunset".into(),
            Self::Snow => "in the snow".into(),
            Self::Sea => "on the sea".into(),
            Self::Plain(colour) => format!("on {} background", article(colour.word())),
        }
    }
}

/// How the first object of a pair stands to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relation {
    /// The first is left of the second.
    #[serde(rename = "left of")]
    LeftOf,
    /// The first is above the second.
    #[serde(rename = "above")]
    Above,
}

impl Relation {
    /// The words, as a caption has them.
    pub fn word(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::Above => "above",
        }
    }
}

/// An object of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thing {
    /// What it is.
    pub object: Object,
    /// The colour that it was given; `None` for its own colours.
    pub colour: Option<Colour>,
}

/// All that a caption can say of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Truth {
    /// One object, or the two of a pair in the order of the caption.
    pub objects: Vec<Thing>,
    /// How often the first object is there: 1 to 3, and 1 in a pair.
    pub count: usize,
    /// Whether the single object is small.
    pub small: bool,
    /// How the two of a pair stand.
    pub relation: Option<Relation>,
    /// Where it is.
    pub background: Background,
    /// How it is drawn.
    pub style: Style,
}

/// Which parts of a caption may be left out. Every form is true of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Form {
    /// Say the style.
    pub style: bool,
    /// Say that the background is white; other backgrounds are always said.
    pub white: bool,
}

/// Says what is true.
///
/// ```text
/// [a small | a | two | three] [colour] object [left of | above] [a colour object] [background], style
/// ```
pub fn caption(truth: &Truth, form: Form) -> String {
    let mut text = String::new();
    for (i, thing) in truth.objects.iter().enumerate() {
        if i == 1 {
            text.push_str(truth.relation.map_or(" and ", |r| match r {
                Relation::LeftOf => " left of ",
                Relation::Above => " above ",
            }));
        }
        let mut words: Vec<&str> = Vec::new();
        words.extend((truth.small && i == 0).then_some("small"));
        words.extend(thing.colour.map(Colour::word));
        let plural = thing.object.plural();
        let many = truth.count > 1 && i == 0;
        words.push(if many { &plural } else { thing.object.word() });
        let phrase = words.join(" ");
        text.push_str(&match (many, truth.count) {
            (false, _) => article(&phrase),
            (true, 2) => format!("two {phrase}"),
            (true, _) => format!("three {phrase}"),
        });
    }
    if truth.background != Background::White || form.white {
        text.push(' ');
        text.push_str(&truth.background.phrase());
    }
    if form.style {
        text.push_str(", ");
        text.push_str(truth.style.word());
    }
    text
}

/// Every word that a caption can have, sorted.
pub fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> =
        ["a", "an", "two", "three", "small", "left", "of", "above"].map(String::from).into();
    words.extend(Colour::ALL.iter().map(|one| one.word().to_owned()));
    words.extend(Style::ALL.iter().map(|one| one.word().to_owned()));
    for object in Object::ALL {
        words.push(object.word().to_owned());
        words.push(object.plural());
    }
    for background in Background::all() {
        words.extend(background.phrase().split(' ').map(String::from));
    }
    words.sort();
    words.dedup();
    words
}

/// No word here begins with a mute h or a consonant u ("umbrella" does not).
fn article(phrase: &str) -> String {
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {phrase}", if vowel { "an" } else { "a" })
}
