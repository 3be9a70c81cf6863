// The live page.

import { useEffect, useState } from "preact/hooks";
import { Courses } from "./course";
import { CostBar, Gains, StepTime } from "./figures";
import { count, figure, percent, short } from "./format";
import { DecisionCard, GrowthNow } from "./growth";
import { Facts, Liveness, Progress, Repeat } from "./header";
import { LossChart } from "./losschart";
import { NetworkStrip } from "./network";
import { usePlane, useRun, useRuns } from "./source";
import { Commands, Gates, Incidents, PlaneCard, Reasons } from "./tables";
import type { View } from "./types";

const NONE = "";

export function App() {
  const { runs, jaeger, error } = useRuns();
  const [run, setRun] = useAddressed("run");
  const [beside, setBeside] = useAddressed("beside");
  const name = run && runs.includes(run) ? run : (runs[0] ?? "");
  const other = beside && runs.includes(beside) && beside !== name ? beside : NONE;
  const shown = useRun(name);
  const shownBeside = useRun(other);
  const plane = usePlane(name);
  const { view } = shown;
  useEffect(() => {
    document.title = view ? `${view.run.run_id ?? name}: ${view.state.word}` : "Esper";
  }, [view, name]);
  return (
    <>
      <header>
        <h1>{view?.run.run_id ?? (name || "Esper")}</h1>
        <Liveness shown={shown} />
        <span class="spacer" />
        <Picker label="run" value={name} runs={runs} onPick={setRun} />
        <Picker label="beside" value={other} runs={runs.filter((each) => each !== name)} none="no other run" onPick={setBeside} />
      </header>
      <main>
        {error && runs.length === 0 && <p class="banner" role="alert">{error}</p>}
        {!view && !error && <p class="quiet">{shown.error ?? "Waiting for the run's first event."}</p>}
        {view && <Run view={view} beside={shownBeside.view} plane={plane} jaeger={jaeger} />}
      </main>
    </>
  );
}

function Run({ view, beside, plane, jaeger }: { view: View; beside: View | null; plane: ReturnType<typeof usePlane>; jaeger: string }) {
  const total = view.loss.clock.step.length > 1;
  return (
    <div class="grid">
      <div class="wide top">
        <Progress view={view} />
        {view.state.detail && <p class={view.state.word === "failed" || view.state.word === "killed" ? "fail" : "quiet"}>{view.state.detail}</p>}
        <Facts view={view} />
      </div>
      <section class="card loss" aria-label="Loss">
        {total ? <LossChart view={view} beside={beside} /> : <p class="quiet">The first steps have not been told yet.</p>}
      </section>
      <GrowthNow view={view} />
      <DecisionCard looks={view.looks} />
      {beside && <Compared view={view} beside={beside} />}
      <section class="card wide" aria-label="Network">
        <h2>Network</h2>
        <NetworkStrip network={view.network} />
      </section>
      <section class="card" aria-label="Cost">
        <h2>What training cost</h2>
        <CostBar cost={view.cost} />
      </section>
      <section class="card" aria-label="Mode, services and alerts">
        <h2>Mode, services, alerts</h2>
        <PlaneCard plane={plane} view={view} />
      </section>
      <section class="card" aria-label="Looks">
        <h2>The judge's looks</h2>
        <Gains looks={view.looks} />
        <Courses evaluations={view.evaluations} looks={view.looks} />
      </section>
      <section class="card" aria-label="Step time">
        <h2>Where a step's time goes</h2>
        <StepTime times={view.step_time} />
      </section>
      <section class="card wide" aria-label="Commands">
        <h2>Commands</h2>
        <Commands commands={view.commands} jaeger={jaeger} />
      </section>
      <section class="card wide" aria-label="Reasons">
        <h2>Why it grew, or waited</h2>
        <Reasons reasons={view.reasons} />
      </section>
      <section class="card wide" aria-label="Gates">
        <h2>Gates</h2>
        <Gates gates={view.gates} />
      </section>
      <section class="card wide" aria-label="Incidents">
        <h2>Incidents</h2>
        <Incidents incidents={view.incidents} />
      </section>
      <footer class="wide">
        <Repeat command={view.run.command} />
        <p class="quiet">
          Every number of this page: <code>esper ui --json RUN_DIR</code>
        </p>
      </footer>
    </div>
  );
}

function Compared({ view, beside }: { view: View; beside: View }) {
  const kept = (of: View) => `${of.seeds.filter((seed) => seed.fate === "FOSSILIZED").length} of ${of.seeds.length}`;
  const rows: [string, (of: View) => string][] = [
    ["state", (of) => of.state.word],
    ["step", (of) => `${count(of.progress.step)} of ${count(of.run.total_steps)}`],
    ["smoothed loss", (of) => figure(of.progress.smoothed_loss)],
    ["judging loss", (of) => figure(of.progress.val_loss)],
    ["judging accuracy", (of) => percent(of.progress.val_accuracy)],
    ["test accuracy", (of) => percent(of.outcome?.test_accuracy)],
    ["parameters", (of) => `${count(of.run.parameters_at_first)} → ${count(of.progress.parameters)}`],
    ["training MACs, all booked", (of) => (of.cost ? short(of.cost.total) : "–")],
    ["seeds kept", kept],
    ["growth", (of) => of.growth.headline],
  ];
  return (
    <section class="card wide" aria-label="Two runs">
      <h2>Two runs</h2>
      <table class="compared">
        <thead>
          <tr>
            <th />
            <th scope="col">{view.run.run_id}</th>
            <th scope="col" class="other">{beside.run.run_id}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([name, told]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>{told(view)}</td>
              <td>{told(beside)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Picker(given: { label: string; value: string; runs: string[]; none?: string; onPick: (name: string) => void }) {
  return (
    <label class="picker">
      {given.label}{" "}
      <select value={given.value} onChange={(event) => given.onPick(event.currentTarget.value)}>
        {given.none !== undefined && <option value={NONE}>{given.none}</option>}
        {given.runs.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

// A choice that stands in the page's address, so that a reload keeps it.
function useAddressed(key: string): [string, (value: string) => void] {
  const [value, setValue] = useState(new URLSearchParams(location.search).get(key) ?? "");
  const pick = (next: string) => {
    const query = new URLSearchParams(location.search);
    if (next) query.set(key, next);
    else query.delete(key);
    history.replaceState(null, "", `?${query}`);
    setValue(next);
  };
  return [value, pick];
}
