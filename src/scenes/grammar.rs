//! What captions can say: objects, colours, styles, backgrounds, and the sentence made of them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A closed list of words: the enum, its words, and the parser of a word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($variant:ident $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = $word] #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that captions use.
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
                    Error::argument($what, format!("one of {}", all.join(", ")), word)
                })
            }
        }
    };
}

words! {
    /// A colour that an object or a plain background can have.
    Colour, "colour":
    Red "red", Orange "orange", Yellow "yellow", Green "green", Blue "blue", Purple "purple",
    Pink "pink",
}

words! {
    /// A drawing style: the family of sprites.
    SpriteStyle, "style": Flat "flat", ThreeD "3d", Cartoon "cartoon",
}

/// Passes the objects to another macro, so that they are listed once.
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
    /// The plural of the word.
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

    /// The range of OKLCh hues that a colour word replaces, in degrees; it may pass through 0. `None` for an
    /// object that keeps its own colours and never gets a colour word.
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

    /// The share of its differences in lightness that it keeps when it is coloured. A donut's icing is so dark
    /// that it would not look yellow.
    pub(super) fn contrast(self) -> f32 {
        if self == Self::Donut { 0.4 } else { 0.8 }
    }

    /// Whether a caption can give it a colour.
    pub fn takes_colour(self) -> bool {
        self.hues().is_some()
    }

    /// The plain backgrounds on which it would be hard to see in its own colours.
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

    /// Whether half of its pictures are mirrored.
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

    /// The phrase that captions use.
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

/// Where the first object of a pair is, relative to the second.
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
    /// The words that captions use.
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
    /// The colour that it was given; `None` if it has its own colours.
    pub colour: Option<Colour>,
}

/// All that a caption can say of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Truth {
    /// One object, or the two of a pair in the order of the caption.
    pub objects: Vec<Thing>,
    /// How many there are of the first object: 1 to 3, and 1 in a pair.
    pub count: usize,
    /// Whether the single object is small.
    pub small: bool,
    /// Where the objects of a pair are; `None` for others.
    pub relation: Option<Relation>,
    /// Where it is.
    pub background: Background,
    /// How it is drawn.
    pub style: SpriteStyle,
}

/// Which of the optional parts a caption has. It is true of the picture in every form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionForm {
    /// Say the style.
    pub style: bool,
    /// Say that the background is white; captions always say other backgrounds.
    pub white: bool,
    /// Say where the things of a pair are, and not only that both are there.
    pub relation: bool,
}

/// The caption of a scene.
///
/// ```text
/// [a small | a | two | three] [colour] object [left of | above | and] [a colour object] [background], style
/// ```
pub fn caption(truth: &Truth, form: CaptionForm) -> String {
    let mut text = String::new();
    for (i, thing) in truth.objects.iter().enumerate() {
        if i == 1 {
            text.push_str(match truth.relation.filter(|_| form.relation) {
                Some(Relation::LeftOf) => " left of ",
                Some(Relation::Above) => " above ",
                None => " and ",
            });
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

/// With the indefinite article. No word here has a silent h or a u that sounds like a consonant.
pub(super) fn article(phrase: &str) -> String {
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {phrase}", if vowel { "an" } else { "a" })
}
