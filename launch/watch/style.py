"""The look of a run's page: light and dark, readable on paper and on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2430; --soft: #667085; --rule: #e4e2dd;
  --train: #3a76b8; --heldout: #c2452d; --more: #c2452d; --less: #3a76b8; --good: #2d7d4f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --card: #1b1f26; --ink: #e6e8ec; --soft: #98a2b3; --rule: #2d333d;
    --train: #6ea8e6; --heldout: #ee7d64; --more: #ee7d64; --less: #6ea8e6; --good: #6cc28f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 60rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.1rem; }
h3 { margin: 0 0 0.25rem; font-size: 0.85rem; font-weight: 600; }
p { margin: 0.35rem 0; max-width: 46rem; }
.soft { color: var(--soft); fill: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 46%), 1fr));
  gap: 0.75rem; margin-top: 1.5rem; }
.tile, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 0.8rem 1rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 0.82rem; color: var(--soft); }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13.5rem, 46%), 1fr));
  gap: 0.75rem; }
.small p { margin: 0.15rem 0 0; font-size: 0.8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
.chart { overflow-x: auto; }
.chart svg { min-width: 36rem; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
svg text.end { text-anchor: end; }
svg text.middle { text-anchor: middle; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg path.faint { stroke-width: 1; opacity: 0.28; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .level { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
svg path.train { stroke: var(--train); }
svg path.held-out { stroke: var(--heldout); }
svg circle.train, svg text.train { fill: var(--train); }
svg circle.held-out, svg text.held-out { fill: var(--heldout); }
svg rect.more { fill: var(--more); }
svg rect.less { fill: var(--less); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 1.1rem 0.3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.total td { font-weight: 600; }
pre { margin: 0.5rem 0; padding: 0.8rem 1rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px;
  font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.3rem 0; }
@media print { body { max-width: none; } details { display: none; } }
"""
