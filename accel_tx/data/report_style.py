"""The style sheet of the report page: readable on a laptop and a phone, in light and in dark."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ground:#f5f6f8;--ink:#1b1f24;--soft:#5b6570;--line:#dfe3e8;
--before:#b9c2cd;--after:#2f6fb3;--training:#2b8a5f;--gone:#cf4a3c}
@media (prefers-color-scheme:dark){:root{--paper:#1c2127;--ground:#14181c;--ink:#e7eaee;--soft:#a0a9b4;--line:#343b44;
--before:#56606c;--after:#68a8ea;--training:#57bd8c;--gone:#ee7567}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:24px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 10px}
i{font-style:normal;color:var(--soft);font-weight:400}
.sub{margin:2px 0 18px;color:var(--soft)}
.note{margin:0 0 10px;color:var(--soft);font-size:14px;max-width:76ch}
section>p{margin:0 0 6px;overflow-wrap:anywhere}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin-top:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px}
.tiles div{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:10px 12px}
.tiles b{display:block;font-size:21px;line-height:1.3;font-variant-numeric:tabular-nums}
.tiles span{font-size:13px}
.flow div{display:grid;grid-template-columns:minmax(90px,190px) 1fr 118px 86px;gap:10px;align-items:center;
font-size:14px;padding:2px 0}
.flow span:nth-child(n+3),.flow b:last-child{text-align:right;font-variant-numeric:tabular-nums}
.flow span:first-child{overflow-wrap:anywhere}
.flow em{display:block;height:13px}
.flow u{display:block;height:100%;min-width:2px;border-radius:2px;background:var(--gone)}
.flow+.note{margin:10px 0 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;width:100%}
th,td{text-align:right;padding:5px 8px;border-bottom:1px solid var(--line);vertical-align:top;
font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500}
tr:last-child td{border-bottom:0}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:last-child,th:last-child{padding-right:0}
.rules td:nth-child(n+2){white-space:nowrap}
.rules td i{font-size:13px}
.rules .idle{color:var(--soft)}
.rules tr:has(+.more) td{border-bottom:0;padding-bottom:0}
.rules .more td{padding:0 0 5px;white-space:normal}
summary{cursor:pointer;color:var(--soft);font-size:13px}
details ul{margin:6px 0 4px;padding:0;list-style:none;font-size:13px}
details li{border-left:3px solid var(--line);padding:1px 0 1px 9px;margin-bottom:7px}
details li p{margin:0;overflow-wrap:anywhere}
details li p+p{color:var(--soft)}
pre{overflow-x:auto;font-size:13px;line-height:1.45;margin:8px 0 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:18px}
figure{margin:0;min-width:0}
figcaption{font-size:14px;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
svg line{stroke:var(--line);stroke-width:1}
svg text{fill:var(--soft);font-size:12px}
svg .tick,svg .axis{text-anchor:middle}
svg .count{text-anchor:end}
.before{fill:var(--before);background:var(--before)}
.after{fill:var(--after);background:var(--after)}
.training{fill:var(--training);background:var(--training)}
.key{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 3px 0 10px;vertical-align:-1px}
.key:first-child{margin-left:0}
@media (max-width:560px){body{font-size:14px}main{padding:16px 10px 32px}section{padding:14px 12px}
.flow div{grid-template-columns:112px 1fr 84px 58px;gap:6px;font-size:13px}
table{font-size:13px}th,td{padding:5px 6px}}
"""
