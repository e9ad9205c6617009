"""The style sheet of every page: light and dark, wide and narrow screens, print."""

STYLE = """
:root{--text:#1c2430;--soft:#5b6675;--line:#e3e8ef;--page:#fff;--card:#f8f9fb;--bar:#4c78a8;--rest:#e3e8ef;
--second:#e0a34c;--third:#72b7b2;--error:#c0392b;--warning:#b7791f;--code:#eef1f5}
@media(prefers-color-scheme:dark){:root{--text:#e4e8ee;--soft:#9aa5b4;--line:#2c3440;--page:#14181e;--card:#1b2129;
--bar:#6b9bd1;--rest:#2c3440;--second:#d99a3d;--third:#5fa8a3;--error:#ec7063;--warning:#e0b15a;--code:#252c36}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:var(--text);
background:var(--page);overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0 0 .2rem} h2{font-size:1.15rem;margin:2.2rem 0 .7rem} h2 small{color:var(--soft);
font-weight:400;font-size:.85rem;margin-left:.5rem} p{margin:0}
.lead,.foot{color:var(--soft)} .foot{margin-top:2.5rem;font-size:.85rem}
.figures{display:flex;gap:.8rem 2.5rem;flex-wrap:wrap;margin:1.2rem 0}
.figures b{display:block;font-size:1.6rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.2}
.figures span{color:var(--soft);font-size:.85rem}
code{background:var(--code);padding:.1rem .3rem;border-radius:3px;font-size:.82rem}
.finding{display:grid;grid-template-columns:11rem 1fr 11rem;gap:.2rem 1.2rem;padding:.7rem 0 .7rem .8rem;
border-top:1px solid var(--line);border-left:3px solid var(--warning);margin-bottom:2px}
.finding.error{border-left-color:var(--error)} .finding.accepted{border-left-color:var(--rest);opacity:.7}
.kind{font-weight:600;color:var(--warning)} .error .kind{color:var(--error)} .accepted .kind{color:var(--soft)}
.kind code{display:block;font-weight:400;color:var(--soft);background:none;padding:0}
.advice,.rows{color:var(--soft);font-size:.88rem} .subject{font-family:ui-monospace,monospace;font-size:.82rem;
text-align:right}
.scroll{overflow-x:auto} .plain{overflow-wrap:break-word;border-collapse:collapse;font-size:.88rem;min-width:50%}
.plain th{text-align:left;font-weight:600;border-bottom:2px solid var(--rest);vertical-align:bottom}
.plain td,.plain th{padding:.28rem 1.2rem .28rem 0} .plain td{border-bottom:1px solid var(--line);vertical-align:top}
.plain .number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap} .unused td{color:var(--soft)}
.plain.dense td,.plain.dense th{padding-right:.7rem} .plain.dense{font-size:.82rem}
.plain code{word-break:break-all} pre{font-size:.8rem;overflow-x:auto} details{margin:.6rem 0}
.note{color:var(--soft);font-size:.88rem;max-width:46rem;margin:.2rem 0 .8rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(21rem,1fr));gap:.8rem 1.6rem;margin:.4rem 0 1rem}
.chart{margin:0;min-width:0;max-width:34rem} .chart.wide{margin:.4rem 0 1rem;max-width:none}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:.2rem}
.chart svg{width:100%;height:auto;display:block;overflow:visible}
.chart text{font:11px system-ui,sans-serif;fill:var(--soft)}
.chart text.name{fill:var(--text);font-size:12px} .chart .grid{stroke:var(--line)}
.chart .diagonal{stroke:var(--soft);stroke-dasharray:4 4} .chart .gap{stroke:var(--rest);stroke-width:3}
.chart .bar{stroke:var(--bar);stroke-width:5;opacity:.28;stroke-linecap:round}
.chart polyline{stroke-width:2;fill:none} .chart polyline.thin{stroke-width:1.3;opacity:.75}
.chart polyline.fourth.thin{opacity:.4} .chart .axis{stroke:var(--soft)}
.chart .halo{paint-order:stroke;stroke:var(--page);stroke-width:3px}
.chart polyline.first{stroke:var(--bar)} .chart circle.first{fill:var(--bar)}
.chart polygon.first{fill:var(--bar);opacity:.16}
.chart polyline.second{stroke:var(--second)} .chart circle.second{fill:var(--second)}
.chart polygon.second{fill:var(--second);opacity:.14} .chart polyline.third{stroke:var(--third)}
.chart circle.third{fill:var(--third)} .chart polygon.third{fill:var(--third);opacity:.14}
.chart polyline.fourth{stroke:var(--soft)} .chart circle.fourth{fill:var(--soft)}
.legend.series .second::before{background:var(--second)} .legend.series .third::before{background:var(--third)}
.legend.series .fourth::before{background:var(--soft)}
.matrix{border-collapse:collapse;width:100%} .matrix th{text-align:left;font-weight:600;padding:.3rem .8rem .3rem 0}
.matrix small{display:block;font-weight:400;color:var(--soft)}
.matrix td{padding:.3rem .8rem .3rem 0;border-top:1px solid var(--line);font-size:.85rem;min-width:6rem;
font-variant-numeric:tabular-nums} .matrix{table-layout:fixed}
.matrix th:first-child{width:9rem;border-top:1px solid var(--line)} .matrix tr:first-child th{border-top:0}
.cell{display:flex;gap:.6rem;align-items:center} .cell span{width:3.6rem}
.cell svg{flex:1;min-width:1rem;height:.55rem;border-radius:2px}
svg polygon{fill:var(--bar);opacity:.3} svg polyline{fill:none;stroke:var(--bar);stroke-width:1.2;
vector-effect:non-scaling-stroke}
svg rect{fill:var(--bar)} svg rect.rest{fill:var(--rest)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .8rem;min-width:0}
h3{font-size:.92rem;margin:0;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.type{color:var(--soft);font-size:.78rem} .figure{margin:.4rem 0}
.plot{width:100%;height:3.6rem;display:block;border-bottom:1px solid var(--soft)}
.ends{display:flex;justify-content:space-between;font-size:.74rem;color:var(--soft);font-variant-numeric:tabular-nums}
dl{display:flex;flex-wrap:wrap;gap:.15rem .9rem;margin:.4rem 0 0;font-size:.78rem}
dl div{display:flex;gap:.3rem} dt{color:var(--soft)} dd{margin:0;font-variant-numeric:tabular-nums}
.ranking{margin:.5rem 0} .rank{display:grid;grid-template-columns:45% 1fr 3.4rem;gap:.5rem;align-items:center;
font-size:.78rem;line-height:1.7}
.rank span{white-space:nowrap;overflow:hidden;text-overflow:ellipsis} .rank b{display:block;height:.55rem;
background:var(--bar);border-radius:2px;min-width:1px} .rank em{font-style:normal;color:var(--soft);text-align:right;
font-variant-numeric:tabular-nums}
.ranking.wide .rank{grid-template-columns:9rem 1fr 11rem;border-top:1px solid var(--line);padding:.15rem 0}
.ranking.wide b{height:.4rem;margin:1px 0}
.rank b.test,.legend .test::before{background:var(--second)}
.rank b.validation,.legend .validation::before{background:var(--third)}
.legend{font-size:.82rem;color:var(--soft);display:flex;gap:1.2rem}
.legend span::before{content:"";display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.35rem;
background:var(--bar);vertical-align:-.05rem}
@media(max-width:46rem){.finding{grid-template-columns:1fr} .subject{text-align:left;order:-1}
.ranking.wide .rank{grid-template-columns:6rem 1fr 6rem}}
@media print{.card,.finding,.chart{break-inside:avoid}}
"""
