"""Tables: one look for every grid, following the page's theme by its variables."""

from __future__ import annotations

import json
from typing import Any

import dash_ag_grid as dag

_GRID = {
    "backgroundColor": "var(--ground)",
    "foregroundColor": "var(--text)",
    "headerBackgroundColor": "var(--ground)",
    "headerTextColor": "var(--text)",
    "borderColor": "var(--grid)",
    "rowHoverColor": "var(--tint)",
    "fontFamily": "inherit",
    "fontSize": 14,
    "headerFontSize": 14,
    "wrapperBorderRadius": 6,
    "cellHorizontalPadding": 16,
    "columnBorder": False,
}


def grid(name: str, *, height: str | None = None, row_id: str | None = None) -> dag.AgGrid:
    """Return an empty grid.

    Args:
        name: its id.
        height: CSS height; None grows with the rows.
        row_id: an expression over ``params.data`` that names a row.
    """
    settings: dict[str, Any] = {
        "rowHeight": 32,
        "headerHeight": 32 if height is None else 40,
        "enableCellTextSelection": True,
        "suppressMovableColumns": True,
        "suppressCellFocus": height is None,
        "animateRows": False,
        "theme": {"function": f"themeQuartz.withParams({json.dumps(_GRID)})"},
    }
    if height is None:
        settings["domLayout"] = "autoHeight"
    wrapped = {"wrapText": True, "autoHeight": True, "sortable": False} if height is None else {}
    return dag.AgGrid(
        id=name,
        rowData=[],
        columnDefs=[],
        getRowId=row_id,
        className="grid",
        defaultColDef={"resizable": True, "wrapHeaderText": True, **wrapped},
        dashGridOptions=settings,
        style={"height": height},
    )
