"""How a report looks: one style sheet for light and dark, wide and narrow, screen and paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f23; --soft: #5d6169; --line: #e2dfd9;
  --accent: #2b59c3; --good: #1d7a46; --bad: #a8480b; --raw: #b9c3d9;
  --one: #2b59c3; --two: #b3540f; --three: #1d7a46; --four: #8a3fa0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --card: #1d2025; --ink: #e7e6e3; --soft: #a2a6ae; --line: #32363d;
    --accent: #8fb0ff; --good: #6fcf97; --bad: #f0a060; --raw: #46526b;
    --one: #8fb0ff; --two: #f0a060; --three: #6fcf97; --four: #d49ae6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; letter-spacing: -0.005em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: 0 0 .75rem; max-width: 44rem; text-wrap: pretty; }
section { margin-top: 3rem; }
.kicker { color: var(--soft); margin: 0 0 .25rem; }
.lead { font-size: 1.125rem; margin: .5rem 0 1.5rem; }
.soft { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
code, .mono {
  font-family: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-size: .875em; overflow-wrap: anywhere;
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .75rem; margin: 0;
}
.tiles div {
  background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; padding: .75rem 1rem;
}
.tiles dt { color: var(--soft); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.25rem; line-height: 1.35; overflow-wrap: anywhere; }
.facts {
  display: grid; grid-template-columns: minmax(8rem, 13rem) minmax(0, 1fr);
  gap: .35rem 1.25rem; margin: 0;
}
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.file { margin-top: 1.25rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
table.small { max-width: 32rem; }
td.name { white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
td.text { overflow-wrap: anywhere; min-width: 9rem; }
td.thumb { width: 5.5rem; }
td.thumb img { width: 4.5rem; height: 4.5rem; object-fit: cover; border-radius: .25rem; display: block; }
td.bar { width: 40%; min-width: 6rem; vertical-align: middle; }
td.bar i {
  display: block; height: .6rem;
  border-radius: .15rem; background: var(--accent); min-width: 1px;
}
.samples {
  display: grid; gap: .75rem; align-items: start; overflow-x: auto; padding-bottom: .5rem;
  grid-template-columns: minmax(9rem, 13rem) repeat(var(--columns), minmax(6.5rem, 15rem));
}
.samples p { margin: 0; overflow-wrap: anywhere; }
.samples figure { margin: 0; }
.samples img { width: 100%; height: auto; display: block; border-radius: .25rem; background: var(--line); }
.samples figcaption { font-size: .8125rem; color: var(--soft); margin-top: .2rem; }
.samples .none { border: 1px dashed var(--line); border-radius: .25rem; aspect-ratio: 1; }
.chart { margin: 0 0 1.25rem; }
.chart .frame { position: relative; height: 16rem; margin: .5rem 1rem 0 3.75rem; }
.chart svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.chart span {
  position: absolute; font-size: .8125rem;
  color: var(--soft); line-height: 1; white-space: nowrap;
}
.chart .y { right: calc(100% + .6rem); transform: translateY(-50%); }
.chart .x { top: calc(100% + .5rem); transform: translateX(-50%); }
.chart .x-label {
  text-align: center; font-size: .8125rem;
  color: var(--soft); margin: 1.5rem 1rem 0 3.75rem;
}
.chart path {
  fill: none; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; stroke-linecap: round;
}
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .line { stroke-width: 2.25; } .chart .dots { stroke-width: 7; }
.chart .line.raw { stroke-width: 1; }
.raw { stroke: var(--raw); } .one { stroke: var(--one); } .two { stroke: var(--two); }
.three { stroke: var(--three); } .four { stroke: var(--four); }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem;
  padding: 0; margin: .5rem 0 0 3.75rem;
}
.key { display: inline-block; width: 1.1rem; height: .2rem; margin-right: .45rem; vertical-align: middle; }
.key.raw {
  background: var(--raw);
  } .key.one { background: var(--one); } .key.two { background: var(--two);
}
.key.three { background: var(--three); } .key.four { background: var(--four); }
.said { padding-left: 1.1rem; max-width: 50rem; overflow-wrap: anywhere; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); }
details > :not(summary) { margin-top: .75rem; }
.packages { columns: 15rem; column-gap: 2rem; padding: 0; list-style: none; }
footer { margin-top: 4rem; border-top: 1px solid var(--line); padding-top: 1rem; font-size: .875rem; }
@media (max-width: 40rem) {
  main { padding-top: 1.5rem; }
  h1 { font-size: 1.6rem; }
  section { margin-top: 2.25rem; }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .facts dd { margin-bottom: .6rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .samples { grid-template-columns: repeat(var(--columns), minmax(7rem, 12rem)); }
  .samples p {
    grid-column: 1 / -1; position: sticky;
    left: 0; max-width: calc(100vw - 2.5rem); margin-top: .5rem;
  }
  .chart .frame, .chart .x-label { margin-left: 3.1rem; margin-right: .75rem; }
  .chart .frame { height: 13rem; }
  .legend { margin-left: 0; }
  .wide { display: none; }
  td.text { min-width: 7rem; }
  td.thumb { width: 4rem; } td.thumb img { width: 3.25rem; height: 3.25rem; }
  .settings thead { display: none; }
  .settings tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .settings td { display: block; border: 0; padding: 0; }
  .settings td.name { font-weight: 600; white-space: normal; }
}
@media print { section { break-inside: avoid; } details { display: block; } }
"""
