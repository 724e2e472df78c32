# secateur_add_engine(TARGET
#   MODEL model.onnx                      the network
#   OUTPUT model.engine                   where the engine goes; model.engine.json appears beside it
#   [COMPUTE_CAPABILITY 8.9 12.0]         the GPUs to build for
#   [SHAPES x=1x3x8x8,2x3x8x8,4x3x8x8]    sizes of inputs that are not fixed
#   [REQUIRE_PRECISION as-quantized]      fail where quantized nodes would run in float
#   [REQUIRE_SPARSE]                      fail where weights are not 2:4
#   [DEPENDS file ...]                    what else the engine depends on (external data, plugins)
#   [FLAGS ...])                          anything else that `secateur build` takes
#
# Adds a target that builds the engine, as part of ALL, whenever the model is newer; `make`, Ninja and the others know
# its dependencies. The properties ENGINE and METADATA of the target are the paths of both files.
#
# secateur_add_project(TARGET FILE secateur.toml)
#
# Adds a target that does what a build file says. It runs each time; `secateur build` knows what is up to date.

find_program(SECATEUR_EXECUTABLE secateur DOC "The command line of secateur (pip install 'secateur[run,tensorrt-rtx]')")

function(_secateur_require)
  if(NOT SECATEUR_EXECUTABLE)
    message(FATAL_ERROR "secateur is not on the path: pip install 'secateur[run,tensorrt-rtx]', "
                        "or set SECATEUR_EXECUTABLE")
  endif()
endfunction()

function(secateur_add_engine target)
  _secateur_require()
  cmake_parse_arguments(
    PARSE_ARGV 1 asked "REQUIRE_SPARSE" "MODEL;OUTPUT;REQUIRE_PRECISION" "COMPUTE_CAPABILITY;SHAPES;DEPENDS;FLAGS")
  if(asked_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "secateur_add_engine(${target}): unknown arguments: ${asked_UNPARSED_ARGUMENTS}")
  endif()
  foreach(name MODEL OUTPUT)
    if(NOT asked_${name})
      message(FATAL_ERROR "secateur_add_engine(${target}): ${name} is missing")
    endif()
  endforeach()
  get_filename_component(model "${asked_MODEL}" ABSOLUTE)
  get_filename_component(output "${asked_OUTPUT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")
  get_filename_component(folder "${output}" DIRECTORY)
  set(flags ${asked_FLAGS})
  foreach(capability IN LISTS asked_COMPUTE_CAPABILITY)
    list(APPEND flags --compute-capability ${capability})
  endforeach()
  foreach(shape IN LISTS asked_SHAPES)
    list(APPEND flags --shape ${shape})
  endforeach()
  if(asked_REQUIRE_PRECISION)
    list(APPEND flags --require-precision ${asked_REQUIRE_PRECISION})
  endif()
  if(asked_REQUIRE_SPARSE)
    list(APPEND flags --require-sparse)
  endif()
  add_custom_command(
    OUTPUT "${output}" "${output}.json"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${folder}"
    COMMAND "${SECATEUR_EXECUTABLE}" build "${model}" -o "${output}" ${flags}
    DEPENDS "${model}" ${asked_DEPENDS}
    COMMENT "Building TensorRT engine ${asked_OUTPUT}"
    VERBATIM)
  add_custom_target(${target} ALL DEPENDS "${output}" "${output}.json")
  set_target_properties(${target} PROPERTIES ENGINE "${output}" METADATA "${output}.json")
endfunction()

function(secateur_add_project target)
  _secateur_require()
  cmake_parse_arguments(PARSE_ARGV 1 asked "" "FILE" "")
  if(NOT asked_FILE)
    message(FATAL_ERROR "secateur_add_project(${target}): FILE is missing")
  endif()
  get_filename_component(file "${asked_FILE}" ABSOLUTE)
  add_custom_target(
    ${target} ALL
    COMMAND "${SECATEUR_EXECUTABLE}" build "${file}"
    COMMENT "Building what ${asked_FILE} asks for"
    VERBATIM)
endfunction()
