"""The page around the report's sections. It needs nothing from outside: no script, font or picture is fetched."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --ink: #202124; --soft: #5f6368; --line: #dcdcd6; --raised: #ffffff; --good: #00795a;
  --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #b0459a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181a; --ink: #e6e6e3; --soft: #a3a7ac; --line: #34383c; --raised: #1e2124; --good: #4cc79f;
    --c1: #56b4e9; --c2: #f0904a; --c3: #40c79a; --c4: #dd8fcb;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .6rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { color: var(--soft); }
.verdict { font-size: 1.1rem; border-left: 4px solid var(--c1); padding: .3rem 0 .3rem .9rem; margin: 1rem 0; }
.missing { color: var(--soft); font-style: italic; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: .8rem 0; font-size: .9rem; }
a { color: var(--c1); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; font-size: .95rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } thead th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
table.facts td { text-align: left; white-space: normal; }
td.best { font-weight: 700; color: var(--good); }
td.gap { color: var(--soft); }
.bar { display: block; height: .7rem; min-width: 2px; background: var(--c1); border-radius: 2px; }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; }
td.bars { width: 100%; min-width: 3rem; padding-right: 0; }
figure { margin: 1rem 0; }
figcaption { font-size: .92rem; color: var(--soft); max-width: 46rem; margin-top: .45rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.panels { display: grid; gap: .6rem; overflow-x: auto; margin-bottom: .6rem;
  grid-template-columns: repeat(var(--n), minmax(var(--min), var(--max))); }
.panel { font-size: .84rem; line-height: 1.35; color: var(--soft); }
.panel img { display: block; width: 100%; height: auto; border-radius: 3px; margin-bottom: .2rem; }
.panel img.cells { image-rendering: pixelated; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.chart { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .6rem .3rem; }
.chart h3 { margin: 0 0 .1rem; font-size: .9rem; font-weight: 600; }
.chart svg { display: block; width: 100%; height: auto; color: var(--soft); font-size: 12px; }
.legend { display: flex; gap: 1rem; font-size: .84rem; color: var(--soft); }
.legend i { display: inline-block; width: 1.1rem; height: 3px; vertical-align: middle; margin-right: .35rem; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<nav>{links}</nav>
{sections}
</body>
</html>
"""
