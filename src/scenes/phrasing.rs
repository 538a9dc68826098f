//! The same scene in the words of different people: synonyms, other word orders, headlines.

use super::grammar::{
    Background, CaptionForm, Colour, Object, Relation, SpriteStyle, Thing, Truth, article,
};
use super::random::Random;

/// Phrases of which one is taken. `{c}` is a colour, `{a}` and `{b}` are the things of a pair.
type Phrases = &'static [&'static str];

const ONE: Phrases = &["a", "a", "a", "a", "", "the", "one"];
const TWO: Phrases = &["two", "two", "2", "a pair of", "a couple of"];
const THREE: Phrases = &["three", "three", "3", "a group of three", "a trio of"];
const SMALL: Phrases = &[
    "small",
    "small",
    "small",
    "little",
    "little",
    "tiny",
    "tiny",
    "mini",
    "miniature",
    "teeny",
    "very small",
];
/// Words that change nothing.
const NICE: Phrases =
    &["nice", "cute", "beautiful", "lovely", "pretty", "simple", "sweet", "single"];
const LARGE: Phrases = &["big", "large"];
const COLOURED: Phrases = &["{c}", "{c}", "{c}", "{c}", "{c}", "{c} coloured", "{c} colored"];
const OF_THAT_COLOUR: Phrases = &["that is {c}", "in {c}", "which is {c}", "of {c} colour"];
const OF_THOSE_COLOURS: Phrases = &["that are {c}", "in {c}", "which are {c}", "all {c}"];

/// Either way round.
const BESIDE: Phrases = &[
    "{a} next to {b}",
    "{b} next to {a}",
    "{a} beside {b}",
    "{b} beside {a}",
    "{a} and {b} side by side",
    "{b} and {a} side by side",
];
const LEFT_OF: Phrases = &[
    "{a} left of {b}",
    "{a} to the left of {b}",
    "{a} on the left of {b}",
    "{a} on the left and {b} on the right",
    "{b} right of {a}",
    "{b} to the right of {a}",
    "{b} on the right of {a}",
    "{b} on the right and {a} on the left",
    "left {a}, right {b}",
    "left: {a}, right: {b}",
    "{a} with {b} on its right",
    "{b} with {a} on its left",
    "{a} with {b} to the right of it",
    "{b} with {a} to the left of it",
];
const ABOVE: Phrases = &[
    "{a} above {b}",
    "{a} over {b}",
    "{a} on top of {b}",
    "{a} hovering above {b}",
    "{a} floating over {b}",
    "{a} at the top and {b} at the bottom",
    "{a} at the top, {b} below it",
    "{b} with {a} above it",
    "{a} with {b} under it",
    "top: {a}, bottom: {b}",
    "{b} below {a}",
    "{b} under {a}",
    "{b} beneath {a}",
    "{b} underneath {a}",
    "{b} at the bottom and {a} at the top",
];
const TOGETHER: Phrases = &[
    "{a} and {b}",
    "{a} and {b}",
    "{b} and {a}",
    "{a} with {b}",
    "{b} with {a}",
    "{a} + {b}",
    "{b} & {a}",
];

const PICTURE_OF: Phrases = &[
    "a picture of",
    "picture of",
    "an image of",
    "image of",
    "a drawing of",
    "an illustration of",
    "an icon of",
    "a painting of",
    "a photo of",
    "a scene with",
    "there is",
    "draw",
    "show me",
    "show",
    "draw me",
    "make",
    "i would like",
    "i'd like to see",
    "a nice picture of",
];
const STANDING: Phrases = &["sitting", "standing", "lying", "placed", "seen", "that is", "resting"];
const ENDS: Phrases = &[".", ".", " please", "!"];
const FLOATING: Phrases = &["floating", "drifting", "swimming"];

/// The words for an object besides its own, singular and plural.
pub(super) fn synonyms(object: Object) -> &'static [(&'static str, &'static str)] {
    match object {
        Object::Cat => &[("kitten", "kittens"), ("kitty", "kitties"), ("cat face", "cat faces")],
        Object::Dog => &[("puppy", "puppies"), ("pup", "pups"), ("dog face", "dog faces")],
        Object::Frog => &[("toad", "toads")],
        Object::Rabbit => &[("bunny", "bunnies"), ("hare", "hares")],
        Object::Octopus => &[("octopus", "octopi")],
        Object::Ladybug => &[("ladybird", "ladybirds"), ("lady beetle", "lady beetles")],
        Object::Flower => &[("tulip", "tulips"), ("blossom", "blossoms")],
        Object::Rose => &[("rose flower", "rose flowers")],
        Object::Cactus => &[("cactus", "cactuses"), ("cactus plant", "cactus plants")],
        Object::Mushroom => &[("toadstool", "toadstools")],
        Object::House => &[("home", "homes"), ("cottage", "cottages"), ("building", "buildings")],
        Object::Car => &[("automobile", "automobiles"), ("vehicle", "vehicles")],
        Object::Rocket => &[
            ("spaceship", "spaceships"),
            ("rocket ship", "rocket ships"),
            ("space rocket", "space rockets"),
        ],
        Object::Boat => &[
            ("sailboat", "sailboats"),
            ("sailing boat", "sailing boats"),
            ("ship", "ships"),
            ("yacht", "yachts"),
        ],
        Object::Ball => &[("football", "footballs"), ("soccer ball", "soccer balls")],
        Object::Bell => &[("golden bell", "golden bells")],
        Object::Diamond => &[("gem", "gems"), ("jewel", "jewels"), ("gemstone", "gemstones")],
        Object::Crown => &[("royal crown", "royal crowns")],
        Object::Umbrella => &[("parasol", "parasols")],
        Object::Snowman => &[("snow man", "snow men")],
        Object::Pizza => &[("slice of pizza", "slices of pizza"), ("pizza slice", "pizza slices")],
        Object::Donut => &[("doughnut", "doughnuts")],
        Object::Cake => &[("birthday cake", "birthday cakes")],
        _ => &[],
    }
}

/// The words for a colour besides its own.
fn shades(colour: Colour) -> Phrases {
    match colour {
        Colour::Red => &["crimson", "scarlet", "bright red"],
        Colour::Orange => &["bright orange"],
        Colour::Yellow => &["golden", "gold", "bright yellow"],
        Colour::Green => &["emerald", "bright green"],
        Colour::Blue => &["azure", "bright blue"],
        Colour::Purple => &["violet", "bright purple"],
        Colour::Pink => &["bright pink", "rosy"],
    }
}

const ON_WHITE: Phrases = &[
    "on white",
    "on a white background",
    "on a plain white background",
    "against a white background",
    "with a white background",
    "isolated on white",
    "in front of a white background",
    "on white background",
];
const ON_GRASS: Phrases = &[
    "on the grass",
    "on grass",
    "on a grassy field",
    "on a grass field",
    "in the grass",
    "on green grass",
    "on the lawn",
    "on a lawn",
    "in a meadow",
    "on a meadow",
    "in a field",
    "in a green field",
    "on a green hill",
    "in the park",
    "in a garden",
];
const ON_THE_BEACH: Phrases = &[
    "on the beach",
    "at the beach",
    "on a beach",
    "on beach",
    "on the seashore",
    "on a sunny beach",
    "on a sandy beach",
    "on the sand",
    "in the sand",
    "on sand",
    "at the seaside",
    "on the shore",
    "by the sea",
    "at the coast",
];
const AT_NIGHT: Phrases = &[
    "at night",
    "at nighttime",
    "at night time",
    "in the night",
    "by night",
    "during the night",
    "at midnight",
    "in the dark",
    "under the stars",
    "under a starry sky",
    "under the night sky",
    "under the moon",
    "in the moonlight",
    "by moonlight",
    "on a starry night",
];
const AT_SUNSET: Phrases = &[
    "at sunset",
    "at dusk",
    "at sundown",
    "in the sunset",
    "during sunset",
    "during a sunset",
    "as the sun sets",
    "with a sunset sky",
    "in front of a sunset",
    "with a sunset",
    "in the evening",
    "in the evening sun",
];
const IN_THE_SNOW: Phrases = &[
    "in the snow",
    "in snow",
    "on the snow",
    "on snow",
    "in winter",
    "in the winter",
    "in a snowy landscape",
    "in a winter landscape",
    "in a snowy field",
    "while it is snowing",
    "on a snowy day",
    "in falling snow",
    "in a snowstorm",
    "in a winter scene",
    "surrounded by snow",
    "with snow",
];
const ON_THE_SEA: Phrases = &[
    "on the sea",
    "at sea",
    "in the sea",
    "on the ocean",
    "in the ocean",
    "on the water",
    "in the water",
    "on water",
    "on the waves",
    "in the waves",
    "out at sea",
    "far out at sea",
    "on the open sea",
];
const ON_A_COLOUR: Phrases = &[
    "on a {c} background",
    "on {c}",
    "against a {c} background",
    "with a {c} background",
    "in front of a {c} background",
    "on a plain {c} background",
    "on {c} background",
    "and the background is {c}",
    "with a {c} backdrop",
    "and a {c} background",
    "on a solid {c} background",
    "over a {c} background",
    "on a {c} backdrop",
    "in front of a {c} wall",
];

fn places(background: Background) -> Phrases {
    match background {
        Background::White => ON_WHITE,
        Background::Grass => ON_GRASS,
        Background::Beach => ON_THE_BEACH,
        Background::Night => AT_NIGHT,
        Background::Sunset => AT_SUNSET,
        Background::Snow => IN_THE_SNOW,
        Background::Sea => ON_THE_SEA,
        Background::Plain(_) => ON_A_COLOUR,
    }
}

/// A background as one of several keywords.
fn place_keywords(background: Background) -> Phrases {
    match background {
        Background::White => &["white background", "white"],
        Background::Grass => &["grass", "meadow", "field", "lawn", "grass background"],
        Background::Beach => &["beach", "sand", "seaside", "beach background"],
        Background::Night => &[
            "night",
            "night sky",
            "moon and stars",
            "starry night",
            "night background",
            "night time",
        ],
        Background::Sunset => &["sunset", "dusk", "evening", "sunset sky", "sunset background"],
        Background::Snow => {
            &["snow", "winter", "snowy", "snow background", "snowy background", "winter scene"]
        }
        Background::Sea => &["sea", "ocean", "water", "waves", "sea background"],
        Background::Plain(_) => &[
            "{c} background",
            "plain {c} background",
            "background {c}",
            "background: {c}",
            "solid {c} background",
        ],
    }
}

/// Before the scene, and after it.
fn style_phrases(style: SpriteStyle) -> (Phrases, Phrases) {
    match style {
        SpriteStyle::Flat => (
            &[
                "a flat icon of",
                "a flat drawing of",
                "a flat illustration of",
                "a flat picture of",
                "flat image of",
            ],
            &[
                "flat",
                "flat style",
                "in flat style",
                "in a flat style",
                "flat design",
                "flat icon",
                "flat illustration",
                "flat look",
                "flat vector icon",
                "drawn as a flat icon",
            ],
        ),
        SpriteStyle::ThreeD => (
            &[
                "a 3d render of",
                "a 3d model of",
                "a 3d picture of",
                "a 3d rendering of",
                "3d image of",
            ],
            &[
                "3d",
                "3d style",
                "in 3d",
                "in a 3d style",
                "3d render",
                "rendered in 3d",
                "3d rendering",
                "3d model",
            ],
        ),
        SpriteStyle::Cartoon => (
            &[
                "a cartoon of",
                "a cartoon drawing of",
                "a cartoon picture of",
                "cartoon image of",
                "a comic of",
            ],
            &[
                "cartoon",
                "cartoon style",
                "in cartoon style",
                "in a cartoon style",
                "as a cartoon",
                "cartoonish",
                "in the style of a cartoon",
                "comic style",
            ],
        ),
    }
}

/// A caption of the scene as one of many people could type it; `seed` determines the words. It says of the scene what
/// [`super::grammar::caption`] says in this form, and is as true.
pub fn paraphrase(truth: &Truth, form: CaptionForm, seed: u64) -> String {
    let mut random = Random::new(seed);
    let random = &mut random;
    let says_place = truth.background != Background::White || form.white;
    let text = if random.chance(12) {
        keywords(truth, form, says_place, random)
    } else {
        sentence(truth, form, says_place, random)
    };
    let end = random.pick(ENDS).filter(|_| random.chance(10));
    text + end.unwrap_or_default()
}

/// "red apple, beach, cartoon"
fn keywords(truth: &Truth, form: CaptionForm, says_place: bool, random: &mut Random) -> String {
    let mut parts = vec![things(truth, form, true, random)];
    if says_place {
        parts.push(place(place_keywords(truth.background), truth.background, random));
    }
    if form.style {
        let style = random.pick(style_phrases(truth.style).1).unwrap_or_default();
        let at = if random.chance(25) { 0 } else { parts.len() };
        parts.insert(at, style.to_owned());
    }
    parts.join(", ")
}

fn sentence(truth: &Truth, form: CaptionForm, says_place: bool, random: &mut Random) -> String {
    let mut subject = things(truth, form, false, random);
    let (before, after) = style_phrases(truth.style);
    let mut ending = None;
    let word = truth.style.word();
    match (form.style, random.next() % 100) {
        (true, 0..20) => subject = with_prefix(before, &subject, random),
        // "a flat apple": the style where the article is followed by the noun.
        (true, 20..36) if !subject.starts_with(|c: char| c.is_ascii_digit()) => {
            subject = match subject.split_once(' ') {
                Some(("a" | "an", noun)) => article(&format!("{word} {noun}")),
                Some((first @ ("the" | "one" | "two" | "three"), noun)) => {
                    format!("{first} {word} {noun}")
                }
                _ => format!("{word} {subject}"),
            }
        }
        (true, _) => ending = random.pick(after),
        (false, 0..30) => subject = with_prefix(PICTURE_OF, &subject, random),
        _ => {}
    }
    let mut text = subject;
    if says_place {
        let place = place(places(truth.background), truth.background, random);
        let landscape = Background::LANDSCAPES.contains(&truth.background);
        let verbs = if truth.background == Background::Sea { FLOATING } else { STANDING };
        let verb = if landscape && truth.relation.is_none() && random.chance(15) {
            random.pick(verbs).map(|verb| format!("{verb} ")).unwrap_or_default()
        } else {
            String::new()
        };
        text = match random.next() % 100 {
            0..12 => format!("{place}, {text}"),
            12..14 => format!("{place}: {text}"),
            14..20 => format!("{text}, {verb}{place}"),
            _ => format!("{text} {verb}{place}"),
        };
    }
    match ending {
        Some(style) if random.chance(85) => format!("{text}, {style}"),
        Some(style) => format!("{text} {style}"),
        None => text,
    }
}

fn with_prefix(prefixes: Phrases, subject: &str, random: &mut Random) -> String {
    format!("{} {subject}", random.pick(prefixes).unwrap_or_default())
}

/// What can be seen: one thing, some of a kind, or a pair.
fn things(truth: &Truth, form: CaptionForm, bare: bool, random: &mut Random) -> String {
    let last = truth.objects.len().saturating_sub(1);
    let bare = bare || random.chance(12);
    let each: Vec<String> = truth
        .objects
        .iter()
        .enumerate()
        .map(|(i, thing)| {
            let count = if i == 0 { truth.count } else { 1 };
            noun(thing, count, truth.small && i == 0, bare, last == 0, random)
        })
        .collect();
    match (each.as_slice(), truth.relation) {
        ([a, b], Some(relation)) => {
            let phrases = match (form.relation, relation) {
                (true, Relation::LeftOf) => LEFT_OF,
                (true, Relation::Above) => ABOVE,
                (false, Relation::LeftOf) if random.chance(50) => BESIDE,
                (false, _) => TOGETHER,
            };
            random.pick(phrases).unwrap_or_default().replace("{a}", a).replace("{b}", b)
        }
        _ => each.concat(),
    }
}

/// "a small red apple", "three kittens that are blue"; `alone` where nothing follows that the end could be read with.
fn noun(
    thing: &Thing,
    count: usize,
    small: bool,
    bare: bool,
    alone: bool,
    random: &mut Random,
) -> String {
    let own = (thing.object.word().to_owned(), thing.object.plural());
    let synonym = random.pick(synonyms(thing.object)).filter(|_| random.chance(45));
    // Gold is a colour of its own.
    let synonym = synonym.filter(|(one, _)| thing.colour.is_none() || !one.starts_with("golden"));
    let (one, many) = synonym.map_or(own, |(one, many)| (one.to_owned(), many.to_owned()));
    let mut words = Vec::new();
    match small {
        true => words.extend(random.pick(SMALL)),
        false if alone && count == 1 && random.chance(6) => words.extend(random.pick(LARGE)),
        false => {}
    }
    if random.chance(7) {
        words.extend(random.pick(NICE).filter(|word| *word != "single" || (alone && count == 1)));
    }
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let mut after = String::new();
    if let Some(colour) = thing.colour {
        let shade = colour_word(colour, random);
        let behind = if count > 1 { OF_THOSE_COLOURS } else { OF_THAT_COLOUR };
        if alone && random.chance(15) {
            after = format!(" {}", random.pick(behind).unwrap_or_default().replace("{c}", &shade));
        } else {
            words.push(random.pick(COLOURED).unwrap_or_default().replace("{c}", &shade));
        }
    }
    words.push(if count > 1 { many } else { one });
    let phrase = words.join(" ") + &after;
    match count {
        1 if bare => phrase,
        1 => match random.pick(ONE).unwrap_or_default() {
            "a" => article(&phrase),
            "" => phrase,
            other => format!("{other} {phrase}"),
        },
        2 => format!("{} {phrase}", random.pick(TWO).unwrap_or_default()),
        _ => format!("{} {phrase}", random.pick(THREE).unwrap_or_default()),
    }
}

fn colour_word(colour: Colour, random: &mut Random) -> String {
    let shade = random.pick(shades(colour)).filter(|_| random.chance(18));
    shade.unwrap_or(colour.word()).to_owned()
}

/// One of the phrases for a background; "a" becomes "an" before a colour that asks for it.
fn place(phrases: Phrases, background: Background, random: &mut Random) -> String {
    let phrase = random.pick(phrases).unwrap_or_default();
    match background {
        Background::Plain(colour) => {
            let colour = colour_word(colour, random);
            phrase.replace("a {c}", &article(&colour)).replace("{c}", &colour)
        }
        _ => phrase.to_owned(),
    }
}

/// Every word that captions and paraphrases use, sorted.
pub fn vocabulary() -> Vec<String> {
    let mut phrases: Vec<String> = own_phrases().into_iter().map(str::to_owned).collect();
    phrases
        .extend(Object::ALL.iter().flat_map(|object| [object.word().to_owned(), object.plural()]));
    phrases.extend(Colour::ALL.iter().map(|colour| colour.word().to_owned()));
    phrases.extend(Background::all().into_iter().map(Background::phrase));
    phrases.push("an".to_owned());
    let mut words: Vec<String> = phrases.iter().flat_map(|phrase| words_of(phrase)).collect();
    words.sort();
    words.dedup();
    words
}

/// The words of a text, without its punctuation and what stands for other words.
pub(super) fn words_of(text: &str) -> Vec<String> {
    let text = text.replace("{a}", "").replace("{b}", "").replace("{c}", "");
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The phrases of all tables here.
fn own_phrases() -> Vec<&'static str> {
    let tables = [
        ONE,
        TWO,
        THREE,
        SMALL,
        LARGE,
        COLOURED,
        OF_THAT_COLOUR,
        OF_THOSE_COLOURS,
        BESIDE,
        LEFT_OF,
        ABOVE,
        TOGETHER,
        NICE,
        PICTURE_OF,
        STANDING,
        FLOATING,
        ENDS,
    ];
    let backgrounds = Background::all().into_iter().flat_map(|b| [places(b), place_keywords(b)]);
    let styles = SpriteStyle::ALL.iter().map(|&style| style_phrases(style));
    let mut all: Vec<&str> = tables.into_iter().chain(backgrounds).flatten().copied().collect();
    all.extend(Colour::ALL.iter().flat_map(|&colour| shades(colour)));
    all.extend(styles.flat_map(|(before, after)| before.iter().chain(after)));
    all.extend(Object::ALL.iter().flat_map(|&o| synonyms(o)).flat_map(|(one, many)| [one, many]));
    all
}
