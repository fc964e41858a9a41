// Nothing: see one_more in the project's meson.build.
