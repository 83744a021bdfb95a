// Sets of fonts as different machines have them: each of these sees one family only.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const FOLDER = "/usr/share/fonts/truetype";
const FAMILIES = {
  dejavu: { sans: "DejaVu Sans", mono: "DejaVu Sans Mono", package: "fonts-dejavu-core" },
  liberation: { sans: "Liberation Sans", mono: "Liberation Mono", package: "fonts-liberation" },
};

export const FONTS = Object.keys(FAMILIES);

/** The environment in which a browser sees one family; throws when that isn't installed. */
export function environmentWith(fonts, folder) {
  const family = FAMILIES[fonts];
  const files = join(FOLDER, fonts);
  if (!existsSync(files)) throw new Error(`${files} is missing: \`cargo xtask setup\` installs ${family.package}`);
  const file = join(folder, `fonts-${fonts}.conf`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, configuration(files, join(folder, `fonts-${fonts}`), family));
  return { ...process.env, FONTCONFIG_FILE: file };
}

function configuration(files, cache, { sans, mono }) {
  const generic = (name, family) => `<match target="pattern"><test name="family"><string>${name}</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>${family}</string></edit></match>`;
  return `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>${files}</dir>
  <cachedir>${cache}</cachedir>
  <selectfont><rejectfont><glob>*Serif*</glob></rejectfont></selectfont>
  ${[generic("sans-serif", sans), generic("system-ui", sans), generic("monospace", mono)].join("\n  ")}
  <match target="pattern"><edit name="family" mode="append"><string>${sans}</string></edit></match>
</fontconfig>
`;
}
