// Which run it is, whether it lives, and how far it is.

import { count, duration, figure, percent } from "./format";
import { type Shown, useNow } from "./source";
import type { View } from "./types";

const STALE_MS = 5000;

export function Liveness({ shown }: { shown: Shown }) {
  const now = useNow();
  const { live, view, heardAt, error } = shown;
  if (heardAt === null || live === null || view === null) return <span class="pill">{error ? "no answer" : "asking"}</span>;
  const behind = (now - heardAt) / 1000;
  const age = live.last_event_age_s === null ? null : live.last_event_age_s + behind;
  const isUnderWay = view.state.ended === null;
  const isSilent = isUnderWay && age !== null && age > live.silent_after_s;
  const kind = view.state.word === "failed" || view.state.word === "killed" || isSilent ? "fail" : isUnderWay ? "pass" : "quiet";
  return (
    <>
      <span class={`pill ${kind}`}>{isSilent ? "silent" : view.state.word}</span>
      <span class={isSilent ? "fail" : "quiet"} role="status">
        {age === null ? "no event yet" : `last event ${duration(age)} ago`}
        {isSilent && `, longer than its pauses (${duration(live.silent_after_s)})`}
      </span>
      <span class={live.damaged_lines ? "fail" : "quiet"}>
        {live.damaged_lines === 0 ? "no event lost" : `${live.damaged_lines} damaged lines left out`}
      </span>
      {1000 * behind > STALE_MS && (
        <strong class="banner" role="alert">
          No answer from this page's server for {duration(behind)}{error ? ` (${error})` : ""}: what you see is that old.
        </strong>
      )}
    </>
  );
}

export function Progress({ view }: { view: View }) {
  const { step } = view.progress;
  const total = view.run.total_steps ?? step;
  const { clock } = view.loss;
  const spent = clock.seconds.at(-1) ?? 0;
  const left = view.state.ended === null && step > 0 && total > step ? ((total - step) / step) * spent : null;
  return (
    <div class="progress">
      <progress max={total || 1} value={step} aria-label="steps made" />
      <span>
        step {count(step)} of {count(total)}
        {left !== null && `, about ${duration(left)} left`}
      </span>
    </div>
  );
}

export function Facts({ view }: { view: View }) {
  const { run, progress, outcome } = view;
  const facts: [string, string][] = [
    ["model", run.model ?? "not told"],
    ["data", run.data ?? "not told"],
    ["optimiser", run.optimizer ?? "not told"],
    ["device", run.device ?? "not told"],
    ["loss, smoothed", figure(progress.smoothed_loss)],
    ...(progress.val_accuracy === null ? [] : ([["accuracy, judging data", percent(progress.val_accuracy)]] as [string, string][])),
    ...(progress.val_accuracy === null && progress.val_loss !== null ? ([["judging loss", figure(progress.val_loss)]] as [string, string][]) : []),
    ...(outcome?.test_accuracy != null ? ([["test accuracy", percent(outcome.test_accuracy)]] as [string, string][]) : []),
    ...(outcome && outcome.test_accuracy == null && outcome.test_loss != null ? ([["test loss", figure(outcome.test_loss)]] as [string, string][]) : []),
    ["parameters", `${count(run.parameters_at_first)} → ${count(progress.parameters)}`],
    ...(run.generations > 1 ? ([["generations", count(run.generations)]] as [string, string][]) : []),
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Repeat({ command }: { command: string | null }) {
  return command === null ? (
    <p class="quiet">A script made this run: run that again to repeat it.</p>
  ) : (
    <details class="repeat">
      <summary>Command that repeats this run</summary>
      <pre>{command}</pre>
    </details>
  );
}
