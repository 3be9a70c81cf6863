// Opens the page in a real browser and tells as JSON what a person would see: `node look.mjs URL EVENTS MORE SHOTS`.
// MORE is appended to the run's EVENTS while the page is open; pictures go into the folder SHOTS.

import { appendFileSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(fileURLToPath(new URL("../../tools/ui/package.json", import.meta.url)));
const { chromium } = require("playwright-core");
const [url, events, more, shots, executablePath] = process.argv.slice(2);
const PATIENCE = { timeout: 20_000 };

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const told = { complaints: [] };

async function opened(width, height, colorScheme) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && told.complaints.push(message.text()));
  page.on("pageerror", (error) => told.complaints.push(error.message));
  page.on("dialog", (dialog) => {
    told.complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.goto(url);
  await page.waitForSelector(".plot canvas", PATIENCE);
  await page.waitForSelector(".headline", PATIENCE);
  return page;
}

const charts = (page) =>
  page.evaluate(() => ["canvas", "svg.gains", "svg.steptime"].map((each) => document.querySelectorAll(each).length));

// Text that is too pale to read on what is behind it, by WCAG's contrast of 4.5.
const pale = (page) =>
  page.evaluate(() => {
    const parts = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const light = (color) => {
      const [r, g, b] = parts(color).map((part) => {
        const share = part / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor;
        if ((parts(color)[3] ?? 1) > 0) return color;
      }
      return "rgb(255, 255, 255)";
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || element.closest("script, style, noscript, title, button:disabled")) continue;
      const style = getComputedStyle(element);
      const color = element instanceof SVGElement ? style.fill : style.color;
      const [one, other] = [light(color), light(behind(element))].sort((a, b) => b - a);
      if ((one + 0.05) / (other + 0.05) < 4.5) found.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${color}`);
    }
    return found;
  });

const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

// Where texts end, so that what should stand on the first screen can be checked.
const bottoms = (page, selectors) =>
  page.evaluate((names) => names.map((name) => document.querySelector(name)?.getBoundingClientRect().bottom ?? null), selectors);

// A chart that is being drawn anew has no box for a moment.
const boxOf = async (page, selector) => {
  for (let tries = 0; tries < 100; tries += 1) {
    const box = await page.locator(selector).boundingBox();
    if (box) return box;
    await page.waitForTimeout(50);
  }
  throw new Error(`${selector} has no box`);
};

const wide = await opened(1280, 800, "light");
told.text = await wide.locator("body").innerText();
told.status = await wide.locator("[role=status]").innerText();
told.title = await wide.title();
told.first_screen = await bottoms(wide, [".headline", '[aria-label="Growth now"] p:last-of-type', '[aria-label="Last decision"] p']);
told.charts = await charts(wide);
told.pale_light = await pale(wide);
told.overflow_wide = await overflow(wide);
await wide.screenshot({ path: `${shots}/wide-light.png` });

// The keyboard alone zooms; the zoom outlives another axis, and news.
await wide.locator(".plot").focus();
await wide.keyboard.press("+");
await wide.keyboard.press("ArrowRight");
told.zoomed = await wide.locator(".readout").innerText();
await wide.getByRole("button", { name: "wall time" }).press("Enter");
told.zoomed_in_time = await wide.locator(".readout").innerText();
appendFileSync(events, readFileSync(more));
await wide.getByText("s2 is on trial").first().waitFor(PATIENCE);
told.zoomed_after_news = await wide.locator(".readout").innerText();
told.charts_after_news = await charts(wide);
await wide.keyboard.press("Tab");
told.focus = await wide.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
await wide.getByRole("button", { name: "show all" }).click();
told.unzoomed = await wide.locator(".readout").innerText();
// Another axis by mouse, and a drag over the plot zooms too.
await wide.getByRole("button", { name: "steps", exact: true }).click();
const plot = await boxOf(wide, ".u-over");
await wide.mouse.move(plot.x + plot.width * 0.25, plot.y + 50);
await wide.mouse.down();
await wide.mouse.move(plot.x + plot.width * 0.5, plot.y + 60, { steps: 5 });
await wide.mouse.up();
told.dragged = await wide.locator(".plot").evaluate(() => document.querySelector(".controls button:disabled")?.textContent ?? "zoomed");
await wide.screenshot({ path: `${shots}/wide-light-zoomed.png` });
// A server that is gone is told as that.
await wide.context().setOffline(true);
await wide.getByRole("alert").waitFor(PATIENCE);
told.offline = await wide.getByRole("alert").innerText();

const dark = await opened(1280, 800, "dark");
told.pale_dark = await pale(dark);
told.background_dark = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
await dark.screenshot({ path: `${shots}/wide-dark.png`, fullPage: true });

const narrow = await opened(390, 844, "light");
told.overflow_narrow = await overflow(narrow);
told.first_screen_narrow = await bottoms(narrow, [".headline", '[aria-label="Growth now"] p:last-of-type']);
await narrow.screenshot({ path: `${shots}/narrow-light.png` });

await browser.close();
process.stdout.write(JSON.stringify(told));
