// Draws the live page, or into a report's places what the report holds.

import { type ComponentChild, render } from "preact";
import { App } from "./app";
import { Courses } from "./course";
import { CostBar, Gains, StepTime } from "./figures";
import { DecisionCard } from "./growth";
import { LossChart } from "./losschart";
import { NetworkStrip } from "./network";
import type { View } from "./types";

const PARTS: Record<string, (view: View) => ComponentChild> = {
  loss: (view) => <LossChart view={view} beside={null} />,
  decision: (view) => <DecisionCard looks={view.looks} />,
  gains: (view) => (
    <>
      <Gains looks={view.looks} />
      <Courses evaluations={view.evaluations} looks={view.looks} />
    </>
  ),
  network: (view) => <NetworkStrip network={view.network} />,
  cost: (view) => <CostBar cost={view.cost} />,
  steps: (view) => <StepTime times={view.step_time} />,
};

const held = document.getElementById("esper-view");
if (held) {
  const view = JSON.parse(held.textContent ?? "null") as View;
  for (const place of document.querySelectorAll<HTMLElement>("[data-esper]")) {
    const part = PARTS[place.dataset.esper ?? ""];
    if (part) {
      place.replaceChildren();
      render(part(view), place);
    }
  }
} else {
  const root = document.getElementById("app");
  if (root) render(<App />, root);
}
