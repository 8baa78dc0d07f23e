//! Writes SVG: a few shapes, text escaped, the same bytes for the same picture.

use std::fmt::Write;

use crate::output::clean;

/// A picture in the making.
#[derive(Debug)]
pub(crate) struct Svg(String);

/// Where a text is anchored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    /// It begins there.
    Start,
    /// It ends there.
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Font {
    /// Its height.
    pub(crate) size: u32,
    /// Its weight.
    pub(crate) bold: bool,
    /// Its colour.
    pub(crate) fill: &'static str,
}

/// A rectangle, by its corner and its sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Text of others: what is no text in XML is shown as what it is.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

impl Svg {
    /// A picture of this size, with what it is called and what it shows, for those who do not see it.
    pub(crate) fn new(width: f64, height: f64, title: &str, shows: &str) -> Self {
        let mut svg = Self(String::new());
        svg.line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title desc\" \
             font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\">"
        ));
        svg.line(format_args!(
            "<title id=\"title\">{}</title>",
            escape(title)
        ));
        svg.line(format_args!("<desc id=\"desc\">{}</desc>", escape(shows)));
        svg
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes all");
        self.0.push('\n');
    }

    /// A rectangle with round corners.
    pub(crate) fn rect(&mut self, area: Area, radius: f64, fill: &str, stroke: Option<&str>) {
        let Area {
            x,
            y,
            width,
            height,
        } = area;
        let stroke = stroke.map_or_else(String::new, |colour| format!(" stroke=\"{colour}\""));
        self.line(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\" \
             fill=\"{fill}\"{stroke}/>"
        ));
    }

    /// A text.
    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, font: Font, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if font.bold {
            " font-weight=\"600\""
        } else {
            ""
        };
        self.line(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{}\" fill=\"{}\"{weight}{anchor}>{}</text>",
            font.size,
            font.fill,
            escape(text)
        ));
    }

    /// Begins a group whose unit is a cell of a grid.
    pub(crate) fn begin_grid(&mut self, x: f64, y: f64, cell: f64) {
        self.line(format_args!(
            "<g transform=\"translate({x} {y}) scale({cell})\" shape-rendering=\"crispEdges\">"
        ));
    }

    /// Rows of cells in one colour, each by its column, row and length; `tip` is shown below a pointer.
    pub(crate) fn runs(
        &mut self,
        fill: &str,
        opacity: &str,
        tip: &str,
        runs: impl Iterator<Item = [u32; 3]>,
    ) {
        let mut path = String::new();
        for [column, row, length] in runs {
            write!(path, "M{column} {row}h{length}v1h-{length}z").expect("a string takes all");
        }
        let opacity = match opacity {
            "1" => String::new(),
            part => format!(" fill-opacity=\"{part}\""),
        };
        self.line(format_args!(
            "<path fill=\"{fill}\"{opacity} d=\"{path}\"><title>{}</title></path>",
            escape(tip)
        ));
    }

    /// Ends it.
    pub(crate) fn end_grid(&mut self) {
        self.line(format_args!("</g>"));
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> String {
        self.line(format_args!("</svg>"));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_text() {
        assert_eq!(
            escape("a<script>\"&\u{0}\u{1b}\u{ffff}\u{e9}"),
            "a&lt;script&gt;&quot;&amp;\\u{0}\\u{1b}?\u{e9}"
        );
    }

    #[test]
    fn shapes_are_written_as_they_are() {
        let mut svg = Svg::new(20.0, 10.0, "<t>", "d");
        let area = Area {
            x: 1.0,
            y: 2.5,
            width: 3.0,
            height: 4.0,
        };
        svg.rect(area, 0.0, "#fff", Some("#000"));
        let font = Font {
            size: 12,
            bold: true,
            fill: "#111",
        };
        svg.text(1.0, 2.0, Anchor::End, font, "a & b");
        svg.begin_grid(1.0, 2.0, 6.0);
        svg.runs("#abc", "0.6", "tip", [[0, 1, 2], [5, 1, 1]].into_iter());
        svg.end_grid();
        let text = svg.finish();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "<title id=\"title\">&lt;t&gt;</title>",
                "<desc id=\"desc\">d</desc>",
                "<rect x=\"1\" y=\"2.5\" width=\"3\" height=\"4\" rx=\"0\" fill=\"#fff\" stroke=\"#000\"/>",
                "<text x=\"1\" y=\"2\" font-size=\"12\" fill=\"#111\" font-weight=\"600\" \
                 text-anchor=\"end\">a &amp; b</text>",
                "<g transform=\"translate(1 2) scale(6)\" shape-rendering=\"crispEdges\">",
                "<path fill=\"#abc\" fill-opacity=\"0.6\" d=\"M0 1h2v1h-2zM5 1h1v1h-1z\">\
                 <title>tip</title></path>",
                "</g>",
                "</svg>",
            ]
        );
    }
}
