//! The blocks of a release as a picture: what is there and what is not, in the order of the packs. Pure.

use diodesync_control::dashboard::{Html, count};
use diodesync_control::put;

/// Cells of a row.
const COLUMNS: usize = 64;
/// Cells at most; of a larger release a cell is several blocks.
const CELLS_MAX: usize = COLUMNS * 24;
/// The room of a cell, and what is drawn of it.
const CELL: f64 = 14.0;
const SQUARE: f64 = 11.0;

/// What a cell shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Held,
    Part,
    Lacking,
}

/// Draws blocks, of each of which is said whether it is there.
pub fn draw(held: &[bool]) -> Html {
    let per_cell = held.len().div_ceil(CELLS_MAX).max(1);
    let cells: Vec<Cell> = held.chunks(per_cell).map(cell).collect();
    let lacking = held.iter().filter(|held| !**held).count();
    let rows = cells.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (COLUMNS as f64 * CELL, rows as f64 * CELL);
    let mut out = Html::default();
    put!(&mut out, "<svg class=\"blocks\" viewBox=\"0 0 " (width) " " (height) "\" role=\"img\"><title>"
        (held.len() - lacking) " of " (held.len()) " blocks are here, " (lacking) " are not</title>");
    for (row, cells) in cells.chunks(COLUMNS).enumerate() {
        let y = row as f64 * CELL + (CELL - SQUARE) / 2.0;
        for (column, cell) in cells.iter().enumerate() {
            square(&mut out, *cell, column as f64 * CELL + (CELL - SQUARE) / 2.0, y);
        }
    }
    out.raw("</svg><p class=\"legend\">");
    for (kind, word) in [(Cell::Held, "here"), (Cell::Part, "in part"), (Cell::Lacking, "not here")] {
        if kind == Cell::Part && per_cell == 1 {
            continue;
        }
        out.raw("<span><svg class=\"blocks\" viewBox=\"0 0 14 14\" aria-hidden=\"true\">");
        square(&mut out, kind, 1.5, 1.5);
        put!(&mut out, "</svg>" (word) "</span>");
    }
    match per_cell {
        1 => out.raw("<span class=\"dim\">each square is a block of 1 MiB</span>"),
        _ => {
            put!(&mut out, "<span class=\"dim\">each square is " (count(per_cell as u64)) " blocks of 1 MiB</span>");
            &mut out
        }
    };
    out.raw("</p>");
    out
}

fn cell(blocks: &[bool]) -> Cell {
    match (blocks.iter().all(|held| *held), blocks.iter().any(|held| *held)) {
        (true, _) => Cell::Held,
        (false, true) => Cell::Part,
        (false, false) => Cell::Lacking,
    }
}

/// A full square, a half one, or a frame: told apart without colour.
fn square(out: &mut Html, cell: Cell, x: f64, y: f64) {
    let (class, x, y, width, height): (&'static str, f64, f64, f64, f64) = match cell {
        Cell::Held => ("held", x, y, SQUARE, SQUARE),
        Cell::Part => ("part", x, y + SQUARE / 2.0, SQUARE, SQUARE / 2.0),
        Cell::Lacking => ("none", x + 1.0, y + 1.0, SQUARE - 2.0, SQUARE - 2.0),
    };
    put!(out, "<rect class=\"" (class) "\" x=\"" (x) "\" y=\"" (y) "\" width=\"" (width) "\" height=\"" (height)
        "\" rx=\"1.5\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_each_block_and_stays_small() {
        let drawn = draw(&[true, true, false]).into_string();
        assert!(drawn.contains("2 of 3 blocks are here, 1 are not"), "{drawn}");
        // One more of each is in the legend.
        assert_eq!(drawn.matches("class=\"held\"").count(), 2 + 1);
        assert_eq!(drawn.matches("class=\"none\"").count(), 1 + 1);
        let mut held = vec![true; 100_000];
        held[70_000] = false;
        let drawn = draw(&held).into_string();
        assert_eq!(drawn.matches("class=\"part\"").count(), 1 + 1, "one lacking block of many is seen");
        assert!(drawn.matches("<rect").count() <= CELLS_MAX + 3);
        assert!(draw(&[]).as_str().contains("0 of 0"));
    }
}
