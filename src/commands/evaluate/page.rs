//! The report as a page: one file that can be read without a network, in the live page's design.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::api::page::{THEME, UPLOT_CSS, UPLOT_JS};
use crate::files::write_whole;

const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = include_str!("assets/report.js");

/// A page that can be read without a network.
pub(super) struct Page {
    title: String,
    body: String,
    has_charts: bool,
}

impl Page {
    pub(super) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: String::new(), has_charts: false }
    }

    fn add(&mut self, html: std::fmt::Arguments<'_>) {
        // Writing to a text does not fail.
        let _ = self.body.write_fmt(html);
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.add(format_args!("<h2>{}</h2>\n", escaped(text)));
    }

    pub(super) fn subheading(&mut self, text: &str) {
        self.add(format_args!("<h3>{}</h3>\n", escaped(text)));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.add(format_args!("<p>{}</p>\n", escaped(text)));
    }

    /// Text whose columns are aligned by spaces.
    pub(super) fn text(&mut self, text: &str) {
        self.add(format_args!("<pre>{}</pre>\n", escaped(text)));
    }

    /// A table whose first column names its rows.
    pub(super) fn table(&mut self, head: &[String], rows: &[Vec<String>]) {
        let cells = |row: &[String], first: &str, rest: &str| -> String {
            let cell = |(i, text): (usize, &String)| {
                let of = if i == 0 { first } else { rest };
                let name = of.split(' ').next().unwrap_or("td");
                format!("<{of}>{}</{name}>", escaped(text))
            };
            row.iter().enumerate().map(cell).collect()
        };
        let head = cells(head, "th scope=\"col\"", "th scope=\"col\"");
        let rows: Vec<String> = rows
            .iter()
            .map(|row| format!("<tr>{}</tr>", cells(row, "th scope=\"row\"", "td")))
            .collect();
        self.add(format_args!(
            "<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{}</tbody></table>\
             </div>\n",
            rows.join("\n")
        ));
    }

    /// Shares of each row, shaded by how large they are.
    pub(super) fn shares(&mut self, corner: &str, names: &[String], rows: &[Vec<f64>]) {
        let head: String =
            names.iter().map(|n| format!("<th scope=\"col\">{}</th>", escaped(n))).collect();
        let row = |(name, row): (&String, &Vec<f64>)| {
            let cell = |x: &f64| format!("<td style=\"--p:{:.0}%\">{x:.3}</td>", 100.0 * x);
            let cells: String = row.iter().map(cell).collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", escaped(name))
        };
        let rows: Vec<String> = names.iter().zip(rows).map(row).collect();
        self.add(format_args!(
            "<div class=\"scroll\"><table class=\"shares\"><thead><tr><th \
             scope=\"col\">{}</th>{head}</tr></thead><tbody>{}</tbody></table></div>\n",
            escaped(corner),
            rows.join("\n")
        ));
    }

    /// A chart that is drawn, and zoomed into, in the browser.
    pub(super) fn chart(&mut self, kind: &str, caption: &str, data: &Value) {
        self.has_charts = true;
        // A text in the data must not end the script that holds it.
        let data = data.to_string().replace("</", "<\\/");
        self.add(format_args!(
            "<figure><figcaption>{}</figcaption><div class=\"chart\" role=\"img\" \
             aria-label=\"{}\" data-kind=\"{kind}\"><script \
             type=\"application/json\">{data}</script></div></figure>\n",
            escaped(caption),
            escaped(caption)
        ));
    }

    /// A picture that can be enlarged.
    pub(super) fn plot(&mut self, svg: &str) {
        self.add(format_args!("<figure class=\"plot\" tabindex=\"0\">{svg}</figure>\n"));
    }

    fn whole(&self) -> String {
        let (uplot_css, uplot_js) =
            if self.has_charts { (UPLOT_CSS, UPLOT_JS) } else { Default::default() };
        let title = escaped(&self.title);
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta \
             name=\"viewport\" content=\"width=device-width, \
             initial-scale=1\"><title>{title}</title>\n<style>{uplot_css}\n{THEME}\n{STYLE}\
             </style>\n</head><body>\n<header><h1>{title}</h1><button id=\"theme\" \
             type=\"button\">Dark</button></header>\n<main>\n{}</main>\n<script>{uplot_js}</script>\
             \n<script>{SCRIPT}</script>\n</body></html>\n",
            self.body
        )
    }

    /// Writes report.html, report.txt, report.json and the plots, and prints the text.
    pub(super) fn write(
        self,
        dir: &Path,
        text: &str,
        plots: &[(&str, String)],
        numbers: &impl Serialize,
    ) -> Result<()> {
        write_numbers(dir, text, plots, numbers)?;
        save(&dir.join("report.html"), &self.whole())?;
        print!("{text}");
        println!("report in {}", dir.display());
        Ok(())
    }
}

/// Writes report.txt, report.json and the plots.
pub(super) fn write_numbers(
    dir: &Path,
    text: &str,
    plots: &[(&str, String)],
    numbers: &impl Serialize,
) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, svg) in plots {
        save(&dir.join(name), svg)?;
    }
    save(&dir.join("report.txt"), text)?;
    save(&dir.join("report.json"), &(serde_json::to_string_pretty(numbers)? + "\n"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn save(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_from_files_do_not_become_markup() {
        let mut page = Page::new("a <b>");
        page.table(&["x".into()], &[vec!["<script>".into(), "1 & 2".into()]]);
        page.chart("lines", "a \"quote\"", &json!({ "name": "</script><script>" }));
        let whole = page.whole();
        assert!(whole.contains("<title>a &lt;b></title>"));
        assert!(whole.contains("<th scope=\"row\">&lt;script></th><td>1 &amp; 2</td>"));
        assert!(whole.contains("<\\/script><script>") && whole.contains("a &quot;quote&quot;"));
        // What is loaded is in the file.
        assert!(!whole.contains("src=") && !whole.contains("<link"));
    }
}
