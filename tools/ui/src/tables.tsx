// What happened, as tables that a narrow screen reads row by row.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { count, figure, words } from "./format";
import type { Command, Incident, Plane, Reason, View } from "./types";

const FIRST_ROWS = 10;

interface Column<T> {
  head: string;
  cell: (row: T) => ComponentChildren;
  isNumber?: boolean;
}

function Table<T>({ rows, columns, empty }: { rows: T[]; columns: Column<T>[]; empty: string }) {
  const [isWhole, setWhole] = useState(false);
  if (rows.length === 0) return <p class="quiet">{empty}</p>;
  const shown = isWhole ? rows : rows.slice(0, FIRST_ROWS);
  return (
    <>
    <table class="rows">
      <thead>
        <tr>
          {columns.map((column) => (
            <th key={column.head} class={column.isNumber ? "number" : ""} scope="col">
              {column.head}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {shown.map((row, place) => (
          <tr key={place}>
            {columns.map((column) => (
              <td key={column.head} class={column.isNumber ? "number" : ""} data-head={column.head}>
                {column.cell(row)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
    {rows.length > FIRST_ROWS && (
      <button type="button" class="more" aria-expanded={isWhole} onClick={() => setWhole(!isWhole)}>
        {isWhole ? "show the newest" : `show all ${rows.length}`}
      </button>
    )}
    </>
  );
}

export function Commands({ commands, jaeger }: { commands: Command[]; jaeger: string }) {
  return (
    <Table
      rows={[...commands].reverse()}
      empty="No command was issued."
      columns={[
        { head: "step", cell: (row) => count(row.step), isNumber: true },
        { head: "command", cell: (row) => <code>{row.command_id}</code> },
        { head: "signed by", cell: (row) => row.signer || "not told" },
        { head: "what", cell: (row) => words(row.action) },
        { head: "outcome", cell: (row) => (row.accepted ? <span class="pass">accepted</span> : <span class="fail">refused: {words(row.rejection)}</span>) },
        { head: "why", cell: (row) => why(row.why) },
        {
          head: "trace",
          cell: (row) =>
            row.trace_id && jaeger ? (
              <a href={`${jaeger.replace(/\/$/, "")}/trace/${row.trace_id}`} rel="noreferrer noopener" target="_blank">
                Jaeger
              </a>
            ) : (
              <span class="quiet">none kept</span>
            ),
        },
      ]}
    />
  );
}

// Reasons of a policy are names, others are sentences.
const why = (text: string): string => (/^[A-Z0-9_, ]+$/.test(text) ? words(text) : text);

export function Reasons({ reasons }: { reasons: Reason[] }) {
  return (
    <Table
      rows={[...reasons].reverse()}
      empty="No policy was asked."
      columns={[
        { head: "step", cell: (row) => count(row.step), isNumber: true },
        { head: "reason", cell: (row) => words(row.reason) },
        { head: "in numbers", cell: (row) => row.detail },
      ]}
    />
  );
}

const GATES: Record<string, string> = {
  G0_SANITY: "G0 built and sound",
  G1_GRADIENT_HEALTH: "G1 gradients are healthy",
  G2_STABILITY: "G2 the loss is stable",
  G3_INTERFACE: "G3 it fits its place",
  G4_SYSTEM_IMPACT: "G4 it beats its twin",
  G5_RESET: "G5 nothing is left of it",
};

export function Gates({ gates }: { gates: View["gates"] }) {
  return (
    <Table
      rows={[...gates].reverse()}
      empty="No gate was consulted."
      columns={[
        { head: "step", cell: (row) => count(row.step), isNumber: true },
        { head: "seed", cell: (row) => row.seed_id },
        { head: "gate", cell: (row) => GATES[row.gate] ?? words(row.gate) },
        { head: "verdict", cell: (row) => <span class={row.verdict.toLowerCase()}>{words(row.verdict)}</span> },
        { head: "measured", cell: (row) => figure(row.measured), isNumber: true },
        { head: "asked for", cell: (row) => figure(row.threshold), isNumber: true },
        { head: "why", cell: (row) => row.detail },
      ]}
    />
  );
}

export function Incidents({ incidents }: { incidents: Incident[] }) {
  return (
    <Table
      rows={[...incidents].reverse()}
      empty="None."
      columns={[
        { head: "step", cell: (row) => count(row.step), isNumber: true },
        { head: "time", cell: (row) => (row.time ? row.time.slice(0, 19).replace("T", " ") : "") },
        { head: "kind", cell: (row) => row.kind },
        { head: "what", cell: (row) => <code>{row.name}</code> },
        { head: "detail", cell: (row) => row.detail },
      ]}
    />
  );
}

export function PlaneCard({ plane, view }: { plane: Plane | null; view: View }) {
  const { mode } = view;
  return (
    <div>
      <p>
        Run: <span class={mode.mode === "normal" ? "pass" : "fail"}>{mode.mode}</span>
        {mode.plane && (
          <span class="fail">
            ; the plane is {mode.plane.mode}
            {mode.plane.level ? `, ${mode.plane.level}` : ""}: {mode.plane.cause}
          </span>
        )}
      </p>
      {plane === null || plane.error !== null ? (
        <p class="quiet">{plane?.error ?? "The plane is being asked."}</p>
      ) : (
        <Asked plane={plane} />
      )}
      {mode.emergencies.length > 0 && (
        <>
          <h3>Emergencies of this run</h3>
          <Incidents incidents={mode.emergencies} />
        </>
      )}
    </div>
  );
}

function Asked({ plane }: { plane: Plane }) {
  const { emergencies = [], alerts = [], services = [] } = plane;
  return (
    <>
      <p>
        Plane: <span class={plane.mode === "NORMAL" ? "pass" : "fail"}>{plane.mode?.toLowerCase()}</span>
        {plane.cause ? `: ${plane.cause}` : ""}; {count(plane.packets)} packets, {count(plane.critical)} critical,{" "}
        <span class={plane.dropped ? "fail" : ""}>{count(plane.dropped)} dropped</span>
        {plane.age_s > 6 && <span class="fail"> (asked {Math.round(plane.age_s)} s ago)</span>}
      </p>
      <ul class="plain">
        {emergencies.map((each) => (
          <li key={each.id} class="fail">
            open emergency {each.id}, {each.level}: {each.detail} (raised by {each.origin})
          </li>
        ))}
        {alerts.map((alert) => (
          <li key={alert.rule + alert.source} class="fail">
            alert {alert.rule} of {alert.source}: {figure(alert.value)} past {figure(alert.threshold)}
          </li>
        ))}
        {alerts.length === 0 && emergencies.length === 0 && <li class="quiet">No alert is raised, no emergency is open.</li>}
      </ul>
      <ul class="services">
        {services.map((service) => (
          <li key={service.service + service.instance} title={`last seen ${service.last_seen}`}>
            <b>{service.service}</b>{" "}
            <span class={service.is_lost || service.health !== "HEALTHY" ? "fail" : "pass"}>{service.is_lost ? "lost" : words(service.health)}</span>
            {service.summary ? ` ${service.summary}` : ""}
          </li>
        ))}
      </ul>
    </>
  );
}
