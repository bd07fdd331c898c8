// Claims of the paper with their verdicts.

const MARKS = { supported: "✓", "not supported": "✗", "not tested": "–" };

function claimRow(claim) {
  const verdict = `${MARKS[claim.verdict]} ${claim.verdict}`;
  const threshold = `(threshold: ${claim.relation} ${short(claim.threshold)})`;
  const measured = claim.value === null ? "–" : `${short(claim.value)} ${threshold}`;
  const cell = element("td", claim.statement);
  const how = element("details", "");
  how.append(element("summary", `how: ${claim.source}`), element("p", claim.measure), element("p", claim.details));
  cell.append(how);
  const row = element("tr", "");
  row.append(
    element("td", verdict, { className: `verdict ${claim.verdict.replace(" ", "-")}` }),
    cell, element("td", measured), element("td", claim.n),
  );
  return row;
}

function renderClaims() {
  const count = (verdict) => study.claims.filter((claim) => claim.verdict === verdict).length;
  byId("claims-readout").textContent =
    `Of ${study.claims.length} claims, ${Object.keys(MARKS).map((verdict) => `${count(verdict)} ${verdict}`).join(", ")}.`;
  byId("claims-rows").replaceChildren(...study.claims.map(claimRow));
}
